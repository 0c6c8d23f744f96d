"""A diff of two trees, applied to the first by the agent or by git, makes the second: bytes, links and exec bits."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from agentlab import Lab
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pyro_mcp.engine.files.patch import apply_patch
from pyro_mcp.errors import InvalidArgument
from pyro_mcp.trees.diff import Version, diff_file, joined

State = dict[str, Version]

CONTENT = st.builds(
    lambda lines, end: ("\n".join(lines) + end).encode(),
    st.lists(st.sampled_from(["a", "b", "", "x\r", "--- a/f", "\\ No", "é"]), max_size=6),
    st.sampled_from(["", "\n"]),
)
FILE = st.builds(lambda content, mode: Version("file", mode, content), CONTENT, st.sampled_from([0o644, 0o755]))
TARGETS = st.sampled_from([b"q", b"../outside", b"/etc/passwd", b"q/x", b"gr\xc3\xbcn \t"])
LINK = st.builds(lambda target: Version("symlink", 0o777, target), TARGETS)
NAMES = st.sampled_from(["d", "d/x", "d/y", "d/sub/z", "e", "with space", "e/f", 'quo"te', "-rf", "b/c"])


def possible(files: State) -> State:
    """Without what would lie below a file or a link."""
    return {path: files[path] for path in files if not any(path.startswith(f"{other}/") for other in files)}


STATE = st.dictionaries(NAMES, st.one_of(FILE, LINK), max_size=6).map(possible)


def plant(root: Path, files: State) -> None:
    for entry in root.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    for path, version in files.items():
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if version.kind == "symlink":
            os.symlink(version.content or b"", place)
        else:
            place.write_bytes(version.content or b"")
            place.chmod(version.mode)


def scan(root: Path) -> State:
    """All that is there, an empty directory too."""
    found: State = {}
    for path in root.rglob("*"):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = Version("symlink", 0o777, os.fsencode(os.readlink(path)))
        elif path.is_file():
            found[name] = Version("file", path.stat().st_mode & 0o777, path.read_bytes())
        elif not any(path.iterdir()):
            found[name] = Version("directory")
    return found


def difference(old: State, new: State) -> str:
    changed = [path for path in sorted({*old, *new}) if old.get(path) != new.get(path)]
    return joined(diff_file(path, old.get(path), new.get(path)) for path in changed)


def git_apply(root: Path, patch: str) -> None:
    environ = {"PATH": os.environ["PATH"], "GIT_CEILING_DIRECTORIES": str(root.parent), "HOME": str(root.parent)}
    argv = ["git", "-c", "core.autocrlf=false", "apply", "--whitespace=nowarn", "-"]
    done = subprocess.run(argv, cwd=root, input=patch.encode(), capture_output=True, env=environ, check=False)
    assert done.returncode == 0, f"{done.stderr.decode()}\n{patch}"


ORDINARY = Version("file", 0o644, b"x\n")


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(old=STATE, new=STATE)
@example(old={"d": ORDINARY}, new={"d/x": ORDINARY})
@example(old={"d/x": ORDINARY}, new={"d": Version("symlink", 0o777, b"/etc")})
@example(old={"d": Version("symlink", 0o777, b"../outside")}, new={"d/x": ORDINARY})
def test_applied_by_the_agent_and_by_git(lab: Lab, tmp_path: Path, old: State, new: State) -> None:
    patch = difference(old, new)
    if not patch:
        return
    plant(lab.root, old)
    apply_patch(lab.call, lab.place, patch)
    assert scan(lab.root) == new
    copy = tmp_path / "copy"
    copy.mkdir(exist_ok=True)
    plant(copy, old)
    git_apply(copy, patch)
    assert scan(copy) == new


def test_links_are_stored_and_never_followed(lab: Lab) -> None:
    outside = lab.root.parent / "outside"
    outside.mkdir()
    (outside / "secret").write_text("canary\n")
    new = {"out": Version("symlink", 0o777, b"../outside"), "etc": Version("symlink", 0o777, b"/etc")}
    apply_patch(lab.call, lab.place, difference({}, new))
    assert scan(lab.root) == new
    edit = "--- a/out/secret\n+++ b/out/secret\n@@ -1 +1 @@\n-canary\n+changed\n"
    for patch in (edit, "--- /dev/null\n+++ b/out/new\n@@ -0,0 +1 @@\n+x\n", "--- a/out/secret\n+++ /dev/null\n"):
        with pytest.raises(InvalidArgument, match="goes through a symbolic link"):
            apply_patch(lab.call, lab.place, patch)
    (lab.root / "near").symlink_to("../outside/secret")
    with pytest.raises(InvalidArgument, match=r"symbolic link to \.\./outside/secret"):
        apply_patch(lab.call, lab.place, edit.replace("out/secret", "near"))
    assert os.listdir(outside) == ["secret"]
    assert (outside / "secret").read_text() == "canary\n"


def test_a_copy_keeps_the_exec_bit(lab: Lab) -> None:
    lab.put("R", "#!/bin/sh\n", 0o755)
    apply_patch(lab.call, lab.place, "diff --git a/R b/S\nsimilarity index 100%\ncopy from R\ncopy to S\n")
    assert scan(lab.root) == dict.fromkeys(("R", "S"), Version("file", 0o755, b"#!/bin/sh\n"))
