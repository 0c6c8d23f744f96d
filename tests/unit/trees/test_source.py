"""Host directories: stored, never followed; what cannot travel is listed (checks 8 and 9)."""

from __future__ import annotations

import errno
import os
import socket
import threading
from pathlib import Path

import pytest

from pyro_mcp.errors import Cancelled, Capacity, InvalidArgument, NotFound
from pyro_mcp.protocol.entries import Entry, Piece
from pyro_mcp.trees.attributes import LINKED, ROOT, kept_time
from pyro_mcp.trees.limits import Limits
from pyro_mcp.trees.source import CHANGED, CHUNK, DirectorySource

from .conftest import contents

LATEST = ((1 << 34) - (1 << 31)) * 10**9 - 1


@pytest.fixture
def root(tmp_path: Path) -> Path:
    place = tmp_path / "root"
    place.mkdir()
    return place


def test_names_modes_links_and_times_arrive(root: Path) -> None:
    (root / "run").write_bytes(b"#!/bin/sh\n")
    (root / "run").chmod(0o755)
    os.utime(root / "run", ns=(5, 1_700_000_000_123_456_789))
    (root / "empty").mkdir(mode=0o700)
    os.link(root / "run", root / "twin")
    (root / "link").symlink_to("nowhere/\udcfe")
    for name in ("\udcff\udcfe", "new\nline", "-rf", "grün", " "):
        (root / name).write_bytes(name.encode("utf-8", "surrogateescape"))
    source = DirectorySource(root)
    items = list(source)
    found = contents(items)
    assert found["run"] == ("file", 0o755, b"#!/bin/sh\n")
    assert found["twin"] == ("hardlink", 0, "run")
    assert found["empty"] == ("directory", 0o700, b"")
    assert found["link"] == ("symlink", 0o777, "nowhere/\udcfe")
    assert found["\udcff\udcfe"][2] == b"\xff\xfe"
    assert next(i for i in items if isinstance(i, Entry) and i.path == "run").mtime_ns == 1_700_000_000_123_456_789
    assert source.skipped == []


def test_links_are_stored_not_followed(root: Path, outside: Path) -> None:
    (root / "ssh").symlink_to(outside)
    (root / "loop").symlink_to("loop")
    (root / "up").symlink_to("..")
    found = contents(DirectorySource(root))
    assert {name: kind for name, (kind, _, _) in found.items()} == {
        "ssh": "symlink",
        "loop": "symlink",
        "up": "symlink",
    }


def test_what_cannot_travel_is_skipped_and_listed(root: Path) -> None:
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "socket"))
    if os.geteuid() == 0:
        os.mknod(root / "device", 0o600 | 0o020000, os.makedev(1, 5))
    (root / "privileged").write_bytes(b"x")
    (root / "privileged").chmod(0o4755)
    source = DirectorySource(root)
    assert contents(source) == {"privileged": ("file", 0o755, b"x")}
    reasons = {skipped.path: skipped.reason for skipped in source.skipped}
    assert reasons["fifo"] == "a named pipe"
    assert reasons["socket"] == "a socket"
    assert "setuid" in reasons["privileged"]
    assert os.geteuid() != 0 or reasons["device"] == "a device"


@pytest.mark.parametrize("refusal", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error")])
def test_unreadable_files_are_listed(root: Path, monkeypatch: pytest.MonkeyPatch, refusal: OSError) -> None:
    (root / "closed").write_bytes(b"x")
    (root / "open").write_bytes(b"y")
    real = os.open

    def fake(path: object, *args: object, **kwargs: object) -> int:
        if path == "closed":
            raise refusal
        return real(path, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", fake)
    source = DirectorySource(root)
    assert list(contents(source)) == ["open"]
    assert [(skipped.path, skipped.reason) for skipped in source.skipped] == [("closed", refusal.strerror)]


def test_a_sparse_file_travels_as_its_data(root: Path) -> None:
    with (root / "sparse").open("wb") as writing:
        writing.truncate(1 << 30)
        writing.seek(1 << 20)
        writing.write(b"data" * 1024)
    items = list(DirectorySource(root))
    entry = items[0]
    assert isinstance(entry, Entry)
    assert entry.size == 1 << 30
    assert entry.stored < 1 << 16
    assert sum(len(item.data) for item in items if isinstance(item, Piece)) == entry.stored


def test_limits_stop_a_sparse_terabyte_and_a_crowd(root: Path) -> None:
    with (root / "huge").open("wb") as writing:
        writing.truncate(1 << 40)
    with pytest.raises(InvalidArgument, match="huge"):
        list(DirectorySource(root))
    (root / "huge").unlink()
    for number in range(20):
        (root / str(number)).touch()
    with pytest.raises(InvalidArgument, match="more than 10 files"):
        list(DirectorySource(root, limits=Limits(entries=10)))


@pytest.mark.parametrize("size", [10, CHUNK * 3])
@pytest.mark.parametrize("change", ["grow", "cut"])
def test_a_file_that_changes_meanwhile_is_reported(root: Path, size: int, change: str) -> None:
    path = root / "file"
    path.write_bytes(b"a" * size)
    source = DirectorySource(root)
    items = []
    for item in source:
        items.append(item)
        if isinstance(item, Entry):
            if change == "grow":
                with path.open("ab") as more:
                    more.write(b"b" * 100)
            else:
                os.truncate(path, 5)
    assert contents(items)["file"][2][:5] == b"aaaaa"
    assert len(contents(items)["file"][2]) == size
    assert [(skipped.path, skipped.reason) for skipped in source.skipped] == [("file", CHANGED)]


def test_no_byte_from_outside_whatever_a_racer_swaps(root: Path, outside: Path) -> None:
    inner = root / "inner"
    inner.mkdir()
    (inner / "secret").write_bytes(b"harmless")
    done = threading.Event()

    def race() -> None:
        while not done.is_set():
            os.rename(inner, root / "aside")
            os.symlink(outside, inner)
            os.unlink(inner)
            os.rename(root / "aside", inner)

    racer = threading.Thread(target=race)
    racer.start()
    try:
        for _ in range(300):
            for item in DirectorySource(root):
                assert not isinstance(item, Piece) or b"canary" not in item.data
    finally:
        done.set()
        racer.join()


def test_a_deep_tree_ends_at_the_stated_depth(root: Path) -> None:
    place = os.open(root, os.O_RDONLY)
    for _ in range(300):
        os.mkdir("d", dir_fd=place)
        below = os.open("d", os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = below
    os.close(place)
    source = DirectorySource(root)
    assert len(contents(source)) == 256
    assert len(source.skipped) == 1
    assert "256" in source.skipped[0].reason


def test_too_few_descriptors_are_an_error_not_a_gap(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "a/b/c").mkdir(parents=True)
    real = os.open

    def fake(path: object, *args: object, **kwargs: object) -> int:
        if path == "c":
            raise OSError(errno.EMFILE, "Too many open files")
        return real(path, *args, **kwargs)  # type: ignore[arg-type]

    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, "open", fake)
    with pytest.raises(Capacity, match="Too many open files"):
        list(DirectorySource(root))
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_is_no_directory_is_refused(root: Path) -> None:
    (root / "file").touch()
    with pytest.raises(InvalidArgument, match="not a directory"):
        list(DirectorySource(root / "file"))
    with pytest.raises(NotFound):
        list(DirectorySource(root / "absent"))
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(Cancelled):
        list(DirectorySource(root, cancelled=cancelled))


def test_too_much_is_refused_before_anything_is_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "a").mkdir()
    for number in range(20):
        (root / "a" / f"f{number}").write_bytes(b"x" * 100)

    def read(*_: object) -> bytes:
        raise AssertionError("it was read")

    monkeypatch.setattr(os, "pread", read)
    for limits, words in ((Limits(entries=15), "more than 15 files"), (Limits(bytes=1000), "more than 1,000 bytes")):
        with pytest.raises(InvalidArgument, match=words):
            next(iter(DirectorySource(root, limits=limits)))


def test_attributes_travel_or_are_named(root: Path) -> None:
    (root / "d").mkdir()
    (root / "d").chmod(0o6775)
    (root / "f").write_bytes(b"x")
    for path in (root / "d", root / "f"):
        os.setxattr(path, "user.b", b"2")
        os.setxattr(path, "user.a", b"\0")
    os.utime(root / "f", ns=(-1, -1))
    if os.geteuid() == 0:
        os.setxattr(root / "f", "trusted.mine", b"x")
    source = DirectorySource(root)
    found = {item.path: item for item in source if isinstance(item, Entry)}
    for name in ("d", "f"):
        assert found[name].xattrs == (("user.a", b"\0"), ("user.b", b"2"))
    assert (found["d"].mode, found["f"].mtime_ns) == (0o2775, -1)
    named = {(one.path, one.reason) for one in source.skipped}
    assert ("d", "its setuid and setgid bits were removed") in named
    if os.geteuid() == 0:
        assert ("f", "its extended attribute trusted.mine was left out: only those of a user travel") in named


@pytest.mark.parametrize(
    ("given", "kept"), [(-(1 << 62), -(1 << 31) * 10**9), (5 * 10**18, 5 * 10**18), (1 << 65, LATEST)]
)
def test_a_time_that_fits_nowhere_is_the_nearest(given: int, kept: int) -> None:
    assert kept_time(given) == kept


def test_what_the_source_itself_and_a_link_have_is_named(root: Path) -> None:
    (root / "link").symlink_to("nowhere")
    os.setxattr(root, "user.mine", b"1")
    expected = [(".", ROOT)]
    if os.geteuid() == 0:
        os.setxattr(root / "link", "trusted.mine", b"1", follow_symlinks=False)
        expected.append(("link", "its extended attribute trusted.mine was left out: only those of a user travel"))
    source = DirectorySource(root)
    assert contents(source) == {"link": ("symlink", 0o777, "nowhere")}
    assert [(one.path, one.reason) for one in source.skipped] == expected
    os.removexattr(root, "user.mine")
    root.chmod(0o2755)
    again = DirectorySource(root)
    list(again)
    assert (".", ROOT) in [(one.path, one.reason) for one in again.skipped]


def test_hard_links_of_a_symbolic_link_are_named(root: Path) -> None:
    (root / "a").symlink_to("nowhere")
    os.link(root / "a", root / "b", follow_symlinks=False)
    source = DirectorySource(root)
    assert contents(source) == dict.fromkeys(("a", "b"), ("symlink", 0o777, "nowhere"))
    assert [(one.path, one.reason) for one in source.skipped] == [("b", LINKED)]
