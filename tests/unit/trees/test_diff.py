"""Diffs that git applies byte for byte, and that our own reader takes back."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyro_mcp.trees.diff import FileDiff, Version, diff_file, joined, totals
from pyro_mcp.trees.patch import Present, Read, plan

State = dict[str, Version]

LINES = st.sampled_from(
    ["a", "b", "", "x = 1", "x = 1\r", "-- ", "--- a/f", "+++ b/f", "@@ -1 +1 @@", "\\ No", "é\u2028", "\f"]
)
CONTENT = st.builds(
    lambda lines, end: ("\n".join(lines) + end).encode(), st.lists(LINES, max_size=12), st.sampled_from(["", "\n"])
)
FILE = st.builds(lambda content, mode: Version("file", mode, content), CONTENT, st.sampled_from([0o644, 0o755]))
LINK = st.builds(
    lambda target: Version("symlink", 0o777, target.encode()), st.sampled_from(["x", "../y", "/etc/passwd"])
)
NAMES = st.sampled_from(
    ["f", "with space", "tab\tand\nline", 'quo"te', "back\\slash", "grün", "\udcff", "d/e", "-rf", "a", "b/c"]
)


def state(files: st.SearchStrategy[Version]) -> st.SearchStrategy[State]:
    return st.dictionaries(NAMES, files, max_size=5)


def compare(old: State, new: State) -> list[FileDiff]:
    changed = [path for path in sorted({*old, *new}) if old.get(path) != new.get(path)]
    return [diff_file(path, old.get(path), new.get(path)) for path in changed]


def write(root: Path, files: State) -> None:
    for path, version in files.items():
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        assert version.content is not None
        if version.kind == "symlink":
            os.symlink(version.content, place)
        else:
            place.write_bytes(version.content)
            place.chmod(version.mode)


def scan(root: Path) -> State:
    found: State = {}
    for base, dirs, names in os.walk(root):
        for name in [*names, *(d for d in dirs if os.path.islink(os.path.join(base, d)))]:
            path = os.path.join(base, name)
            key = os.path.relpath(path, root)
            if os.path.islink(path):
                found[key] = Version("symlink", 0o777, os.fsencode(os.readlink(path)))
            else:
                found[key] = Version("file", os.stat(path).st_mode & 0o777, Path(path).read_bytes())
    return found


def git_apply(root: Path, patch: str) -> None:
    argv = ["git", "-c", "core.autocrlf=false", "apply", "--whitespace=nowarn", "--unsafe-paths", "-"]
    environ = {"PATH": os.environ["PATH"], "GIT_CEILING_DIRECTORIES": str(root.parent), "HOME": str(root.parent)}
    finished = subprocess.run(
        argv, cwd=root, input=patch.encode("utf-8"), capture_output=True, env=environ, check=False
    )
    assert finished.returncode == 0, f"{finished.stderr.decode()}\n{patch}"


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(old=state(st.one_of(FILE, LINK)), new=state(st.one_of(FILE, LINK)))
def test_git_apply_makes_the_same_tree(tmp_path_factory: pytest.TempPathFactory, old: State, new: State) -> None:
    root = tmp_path_factory.mktemp("tree")
    write(root, old)
    diffs = compare(old, new)
    patch = joined(diffs)
    if patch:
        git_apply(root, patch)
    assert scan(root) == new


@settings(max_examples=300, deadline=None)
@given(old=state(st.one_of(FILE, LINK)), new=state(st.one_of(FILE, LINK)))
def test_our_own_reader_takes_it_back(old: State, new: State) -> None:
    tree = dict(old)
    patch = joined(compare(old, new))
    for step in plan(patch, presence(old)) if patch else []:
        assert step.kind != "rename"
        assert (step.before_sha256 is None) == (step.path not in tree)
        if step.kind == "delete":
            del tree[step.path]
        elif step.kind == "link":
            tree[step.path] = Version("symlink", 0o777, step.content)
        else:
            known = tree.get(step.path)
            content = known.content if step.content is None and known else step.content
            mode = step.mode or (known.mode if known else 0o644)
            tree[step.path] = Version("file", mode, content)
    assert tree == new


def presence(files: State) -> Read:
    """What an agent would read."""

    def read(path: str) -> Present | None:
        version = files.get(path)
        if version is None or version.kind == "directory":
            return None
        return Present(version.content or b"", version.kind, version.mode)

    return read


def test_what_text_cannot_say_is_told() -> None:
    text, binary = Version("file", 0o644, b"x\n"), Version("file", 0o644, b"\0")
    latin = Version("file", 0o644, b"\xe9")
    huge, folder = Version("file", 0o644, None), Version("directory", 0o755)
    diffs = [
        diff_file("binary", text, binary),
        diff_file("latin", None, latin),
        diff_file("huge", huge, None),
        diff_file("folder", None, folder),
        diff_file("private", text, Version("file", 0o600, b"x\n")),
        diff_file("kind", text, folder),
        diff_file("edit", text, Version("file", 0o644, b"y\n")),
    ]
    assert [diff.reason for diff in diffs] == ["binary", "binary", "too large", "directory", "permissions", None, None]
    count = totals(diffs)
    assert (count.total, count.added, count.modified, count.deleted, count.type_changed) == (7, 2, 3, 1, 1)
    assert (count.text_patched, count.non_text) == (2, 5)
    assert "deleted file mode 100644" in (diffs[5].text_patch or "")


def test_a_large_file_takes_little_time() -> None:
    old = [b"%d\n" % (number % 977) for number in range(60_000)]
    new = [*old]
    new[5:6], new[-5:-4] = [b"one\n"], [b"two\n", b"three\n"]
    diff = diff_file("f", Version("file", 0o644, b"".join(old)), Version("file", 0o644, b"".join(new)))
    assert plan(diff.text_patch or "", {"f": Present(b"".join(old))}.get)[0].content == b"".join(new)
