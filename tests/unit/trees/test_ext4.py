"""Reading an ext4 image that a hostile guest has written: bounded, typed, and by inode only."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
from pathlib import Path

import pytest

from pyro_mcp.errors import ProtocolError, TimedOut
from pyro_mcp.system.process import CommandFailed, run_into
from pyro_mcp.trees.ext4 import ROOT, Ext4, Inode, confined


def build(directory: Path, *requests: str) -> Ext4:
    """An image made without mounting it, by debugfs `requests`."""
    directory.mkdir(exist_ok=True)
    image = directory / "disk"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-O", "^metadata_csum", image], check=True)
    (directory / "content").write_bytes(b"0123456789" * 1000)
    (directory / "make").write_text("\n".join(requests) + "\n")
    subprocess.run(["debugfs", "-w", "-f", directory / "make", image], check=True, capture_output=True, cwd=directory)
    return Ext4(image)


def test_files_are_found_and_read_in_bounds(tmp_path: Path) -> None:
    image = build(
        tmp_path / "a", "mkdir a", "write content a/file", "symlink a/link ../x", f"symlink a/long {'y' * 100}"
    )
    directory = image.lookup("a")
    assert directory is not None
    (entries,) = image.listing([directory.inode])
    assert sorted(entries) == ["file", "link", "long"]
    assert (entries["file"].size, entries["file"].mode & 0o170000) == (10_000, 0o100000)
    assert image.content(entries["file"], 15) == b"012345678901234"
    assert image.content(entries["file"], 20_000) == b"0123456789" * 1000
    assert image.targets([entries["link"], entries["long"]]) == ["../x", "y" * 100]
    assert image.lookup("a", "none", "below") is None
    assert image.opaque([directory.inode, ROOT]) == [False, False]


def test_an_overlays_marks_are_seen(tmp_path: Path) -> None:
    image = build(tmp_path / "a", "mkdir a", "ea_set a trusted.overlay.opaque y", "mknod gone c 0 0", "mknod c c 1 3")
    entries = image.listing([ROOT])[0]
    assert image.opaque([ROOT, entries["a"].inode]) == [False, True]
    assert Inode(1, 0o020000, 0).whiteout
    assert not entries["a"].whiteout


def test_a_redirect_is_a_value_whatever_it_says(tmp_path: Path) -> None:
    forged = "y\\ndebugfs: ea_get -x -V <2> trusted.overlay.redirect\\n2f"
    image = build(tmp_path / "a", "mkdir a", "mkdir b", "mkdir c", f'ea_set b trusted.overlay.redirect "/{forged}"')
    (tmp_path / "a/value").write_bytes(b"/x\ndebugfs: ea_get -x -V <2> trusted.overlay.redirect\n2f\n\xff")
    command = ["debugfs", "-w", "-R", "ea_set -f value c trusted.overlay.redirect", str(image.path)]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path / "a")
    entries = image.listing([ROOT])[0]
    found = image.redirects([entries["a"].inode, entries["c"].inode, ROOT, entries["b"].inode])
    assert found[0] == found[2] == ""
    assert found[1] == "/x\ndebugfs: ea_get -x -V <2> trusted.overlay.redirect\n2f\n\udcff"
    assert found[3].startswith("/y")


def test_names_that_look_like_the_tools_own_words_are_names(tmp_path: Path) -> None:
    image = build(tmp_path / "a", "mkdir AAAAAAAAAAAAAAAAAAAAAAA", "mkdir b", "write content b/inside")
    data = bytearray(image.path.read_bytes())
    forged = b"\ndebugfs: ls -p <2>\nAAAA"[:23]
    assert data.count(b"A" * 23) == 1
    at = data.index(b"A" * 23)
    data[at : at + 23] = forged
    image.path.write_bytes(data)
    below = image.lookup("b")
    assert below is not None
    listings = image.listing([ROOT, below.inode, ROOT])
    assert forged.decode() in listings[0]
    assert list(listings[1]) == ["inside"]
    assert listings[2] == listings[0]


def test_removed_files_leave_nothing_behind(tmp_path: Path) -> None:
    image = build(tmp_path / "a", "mkdir run", "mkdir run/below", "write content run/below/file", "write content kept")
    run = image.lookup("run")
    assert run is not None
    assert image.remove_below(run) == 2
    image.clean()
    assert image.listing([run.inode]) == [{}]
    kept = image.lookup("kept")
    assert kept is not None
    assert image.content(kept, 10) == b"0123456789"
    assert image.path.read_bytes().count(b"0123456789" * 400) == 2, "one file of 10,000 bytes"
    assert subprocess.run(["e2fsck", "-fn", image.path], capture_output=True).returncode == 0


@pytest.mark.parametrize("seed", range(12))
def test_a_broken_image_is_a_typed_error_or_some_answer(tmp_path: Path, seed: int) -> None:
    image = build(tmp_path / "a", "mkdir a", "write content a/file", "symlink a/link x")
    chance = random.Random(seed)
    data = bytearray(image.path.read_bytes())
    for _ in range(200):
        data[chance.randrange(1024, 256 * 1024)] = chance.randrange(256)
    image.path.write_bytes(data)
    with contextlib.suppress(ProtocolError):
        image.replay()
        for names in (("a",), ("a", "file"), ("a", "link")):
            node = image.lookup(*names)
            if node is not None:
                image.content(node, 1000)
                image.targets([node])
        image.remove_below(Inode(ROOT, 0o040000, 0))
        image.clean()


def test_what_is_no_file_system_is_refused(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(os.urandom(1 << 20))
    with pytest.raises(ProtocolError, match="broken"):
        Ext4(tmp_path / "disk").replay()


def test_the_tools_are_shut_in(tmp_path: Path) -> None:
    shown = run_into(confined(["/bin/sh", "-c", "cat /proc/net/dev; ulimit -v"], tmp_path), limit=10_000, timeout=20)
    lines = shown.decode().splitlines()
    assert lines[-1] == str(2 << 20)


def test_output_is_cut_and_time_is_up() -> None:
    assert run_into(["yes"], limit=100_000, timeout=20) == b"y\n" * 50_000
    assert run_into(["printf", "abc"], limit=3, timeout=20) == b"abc"
    assert run_into(["sh", "-c", "yes | head -c 10000000 >&2; echo out"], limit=10, timeout=20) == b"out\n"
    with pytest.raises(TimedOut):
        run_into(["sleep", "30"], limit=1, timeout=0.2)
    with pytest.raises(CommandFailed, match="exit 3: no"):
        run_into(["sh", "-c", "echo no >&2; exit 3"], limit=10, timeout=20)
