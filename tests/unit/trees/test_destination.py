"""What a hostile guest sends arrives whole and harmless, or not at all (checks 13, 14 and 7)."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyro_mcp.errors import Conflict, DiskFull, InvalidArgument, NotFound, ProtocolError, PyroError
from pyro_mcp.protocol.entries import Entry, EntryError, Piece
from pyro_mcp.trees import destination
from pyro_mcp.trees.destination import export_tree
from pyro_mcp.trees.limits import Limits
from pyro_mcp.trees.links import leading_out
from pyro_mcp.trees.work import clear

from .conftest import file, snapshot

Items = list[Entry | Piece]


def directory(path: str, mode: int = 0o755) -> Items:
    return [Entry(path, "directory", mode)]


def link(path: str, target: str) -> Items:
    return [Entry(path, "symlink", 0o777, target=target)]


def hard(path: str, target: str) -> Items:
    return [Entry(path, "hardlink", target=target)]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The directory that receives the export."""
    path = tmp_path / "place"
    path.mkdir()
    return path


def test_a_tree_arrives(place: Path) -> None:
    items = [
        *directory("bin", 0o555),
        *file("bin/run", b"#!/bin/sh\n", 0o755),
        *hard("twin", "bin/run"),
        *link("link", "bin/run"),
        *directory("empty"),
        *file("README", b"x"),
        *file("readme", b"y"),
        *file("-rf", b"1"),
        *file("new\nline", b"2"),
        *file("\udcff", b"3"),
        Entry("sparse", "file", 0o644, 0, 1 << 30, extents=((1 << 20, 4),)),
        Piece(1 << 20, b"data"),
    ]
    report = export_tree(items, place / "out", kind="directory")
    (place / "out" / "sparse").unlink()
    found = snapshot(place / "out")
    assert found["bin"] == ("directory", 0o755)
    assert found["bin/run"] == ("file", 0o755, b"#!/bin/sh\n", 2)
    assert found["link"] == ("link", "bin/run")
    assert [found[name][2] for name in ("README", "readme", "-rf", "new\nline", "\udcff")] == [
        b"x",
        b"y",
        b"1",
        b"2",
        b"3",
    ]
    assert (report.entry_count, report.skipped, report.artifact_type) == (11, [], "directory")
    assert os.stat(place / "out" / "README").st_mtime_ns == 1_000_000_007
    assert os.listdir(place) == ["out"]


def test_a_single_file_arrives_under_the_name_asked_for(place: Path) -> None:
    report = export_tree(file("whatever", b"data", 0o6777), place / ".envrc", kind="file")
    assert snapshot(place) == {".envrc": ("file", 0o755, b"data", 1)}
    assert report.runnable == [".envrc"]
    for items in (directory("d"), link("l", "x"), [], [*file("a"), *file("b")]):
        with pytest.raises(ProtocolError):
            export_tree(items, place / "other", kind="file")
    assert os.listdir(place) == [".envrc"]


def test_modes_are_masked(place: Path) -> None:
    items = [*directory("d", 0o7777), *file("d/f", b"", 0o7777), *directory("closed", 0), *file("closed/f", b"", 0)]
    export_tree(items, place / "out", kind="directory")
    assert snapshot(place / "out") == {
        "d": ("directory", 0o755),
        "d/f": ("file", 0o755, b"", 1),
        "closed": ("directory", 0o700),
        "closed/f": ("file", 0, b"", 1),
    }


HOSTILE: dict[str, Items] = {
    "a file below a link": [*link("l", "../../outside"), *file("l/secret", b"evil")],
    "a file below a chain": [*link("a", "b"), *link("b", "../../outside"), *file("a/new", b"evil")],
    "a file over a link": [*link("l", "../../outside/secret"), *file("l", b"evil")],
    "a link over a directory": [*directory("d"), *link("d", "../../outside"), *file("d/x", b"evil")],
    "a hard link to a link": [*link("l", "../../outside/secret"), *hard("h", "l")],
    "a hard link out": hard("h", "nothing"),
    "a hard link through a link": [*link("l", "../../outside"), *hard("h", "l/secret")],
    "a name twice": [*file("f", b"1"), *file("f", b"2")],
    "a parent that never came": file("d/f", b"x"),
    "a file as parent": [*file("f", b"x"), *file("f/x", b"y")],
    "a whiteout": [Entry("w", "whiteout")],
    "a redirect": [*directory("d"), Entry("d", "redirect", target="/etc")],
    "bytes without a file": [Piece(0, b"x")],
    "bytes behind a directory": [*directory("d"), Piece(0, b"x")],
    "bytes past the end": [Entry("f", "file", 0o644, 0, 1), Piece(0, b"xx")],
}
NONSENSE = ["../x", "/x", "a//b", "a/./b", "", "x\0", "a/..", "n" * 256]


@pytest.mark.parametrize("trick", HOSTILE)
def test_a_trick_leaves_nothing(place: Path, outside: Path, trick: str) -> None:
    before = snapshot(outside)
    with pytest.raises(InvalidArgument):
        export_tree(HOSTILE[trick], place / "out", kind="directory")
    assert os.listdir(place) == []
    assert snapshot(outside) == before


@pytest.mark.parametrize("name", NONSENSE)
def test_a_name_that_is_no_plain_path_leaves_nothing(place: Path, name: str) -> None:
    with pytest.raises(ProtocolError):
        export_tree([*file("fine", b"x"), Entry(name, "file")], place / "out", kind="directory")
    assert os.listdir(place) == []


def test_links_that_lead_out_are_listed_and_left_out(place: Path, outside: Path) -> None:
    items = [
        *directory("p"),
        *directory("p/q"),
        *link("p/q/root", "../.."),
        *link("p/q/sly", "root/../../.."),
        *link("absolute", str(outside)),
        *link("climb", "p/../../x"),
        *link("inside", "p/q"),
        *link("dangling", "later"),
        *link("loop", "loop"),
    ]
    report = export_tree(items, place / "out", kind="directory")
    assert [skipped.path for skipped in report.skipped] == ["absolute", "climb", "p/q/sly"]
    found = snapshot(place / "out")
    assert {path for path, entry in found.items() if entry[0] == "link"} == {"p/q/root", "inside", "dangling", "loop"}
    assert report.entry_count == 6


def test_nothing_is_overwritten(place: Path) -> None:
    (place / "file").write_bytes(b"mine")
    (place / "empty").mkdir()
    (place / "dangling").symlink_to("nowhere")
    before = snapshot(place)
    for name in ("file", "empty", "dangling"):
        with pytest.raises(Conflict):
            export_tree(file("f", b"x"), place / name, kind="directory")
    with pytest.raises(NotFound):
        export_tree(file("f", b"x"), place / "none" / "out", kind="directory")
    assert snapshot(place) == before


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_who_comes_second_loses(place: Path, kind: str) -> None:
    def items() -> Iterator[Entry | Piece]:
        yield from file("f", b"late")
        (place / "out").mkdir()

    with pytest.raises(Conflict):
        export_tree(items(), place / "out", kind=kind)  # type: ignore[arg-type]
    assert snapshot(place) == {"out": ("directory", 0o755)}


def test_a_full_disk_leaves_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items = [*directory("d", 0), *file("d/a", b"x" * 100), *file("d/b", b"y" * 100)]
    real, calls = os.pwrite, iter(range(100))

    def fake(*args: object) -> int:
        if next(calls) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "pwrite", fake)
    with pytest.raises(DiskFull):
        export_tree(items, place / "out", kind="directory")
    assert os.listdir(place) == []


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_it_is_durable_before_it_has_its_name(place: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    def broken(*_: object) -> int:
        ctypes.set_errno(errno.EIO)
        return -1

    real = os.fsync
    flushed: list[bool] = []

    def fsync(descriptor: int) -> None:
        flushed.append((place / "out").exists())
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    export_tree(file("f", b"x"), place / "out", kind=kind)  # type: ignore[arg-type]
    assert flushed == ([False, True] if kind == "file" else [True])
    if kind == "directory":
        monkeypatch.setattr(destination._libc(), "syncfs", broken)
        with pytest.raises(PyroError, match="Input/output error"):
            export_tree(file("f", b"x"), place / "other", kind="directory")
        assert os.listdir(place) == ["out"]


def test_whoever_is_told_of_the_place_can_clear_it(place: Path) -> None:
    told: list[Path] = []

    @contextlib.contextmanager
    def track(work: Path) -> Iterator[None]:
        assert not work.exists()
        told.append(work)
        yield
        assert not work.exists()

    def items() -> Iterator[Entry | Piece]:
        clear(told[0])
        assert told[0].is_dir(), "one that is held by a living process was removed"
        yield from file("f", b"x")

    export_tree(items(), place / "out", kind="directory", track=track)
    left = place / ".pyro-export-left"
    left.mkdir(0o700)
    (left / "closed").mkdir(0)
    clear(left, before=time.time() - 60)
    assert left.is_dir()
    (place / "link").symlink_to(place / "out")
    clear(place / "link")
    clear(left)
    assert sorted(os.listdir(place)) == ["link", "out"]
    assert os.listdir(place / "out") == ["f"]


def test_a_sequence_that_breaks_off_leaves_nothing(place: Path) -> None:
    def cut() -> Iterator[Entry | Piece]:
        yield from directory("d", 0)
        yield from file("d/f", b"x")
        raise EntryError("the sequence is cut off")

    with pytest.raises(ProtocolError, match="cut off"):
        export_tree(cut(), place / "out", kind="directory")
    with pytest.raises(InvalidArgument, match="more than 5 files"):
        export_tree(
            [entry for n in range(9) for entry in file(str(n))], place / "out", kind="directory", limits=Limits(5)
        )
    with pytest.raises(InvalidArgument, match="more than 10 bytes"):
        export_tree(file("f", bytes(11)), place / "out", kind="directory", limits=Limits(bytes=10))
    assert os.listdir(place) == []


def test_files_that_could_run_something_are_listed(place: Path) -> None:
    paths = [
        ".git/hooks/pre-commit",
        ".git/config",
        "sub/.GIT/config",
        ".git/modules/m/config",
        ".envrc",
        ".vscode/tasks.json",
        ".idea/workspace.xml",
        "bare/HEAD",
        "bare/config",
        "bare/hooks/post-checkout",
        "x.code-workspace",
        "vendored/.git",
    ]
    harmless = [
        ".git/hooks/pre-commit.sample",
        ".git/HEAD",
        "config",
        "hooks/x",
        "src/app.py",
        "Makefile",
        "env/readme",
    ]
    folders: dict[str, None] = {}
    for path in [*paths, *harmless]:
        parts = path.split("/")
        folders.update({"/".join(parts[:depth]): None for depth in range(1, len(parts))})
    items = [item for folder in folders for item in directory(folder)]
    items += [item for path in [*paths, *harmless] for item in file(path, b"x")]
    report = export_tree(items, place / "out", kind="directory")
    assert report.runnable == sorted(set(paths) - {"bare/HEAD"})


def test_links_too_tangled_to_tell_are_refused(place: Path) -> None:
    chain = [item for number in range(39) for item in link(f"n{number}", "/".join([".", f"n{number + 1}"] * 20))]
    fan = [item for number in range(3000) for item in link(f"z{number}", "n0/" + "./" * 1900)]
    with pytest.raises(InvalidArgument, match="tangled"):
        export_tree([*chain, *fan], place / "out", kind="directory")
    assert os.listdir(place) == []


PARTS = st.sampled_from(["a", "b", "c", "..", "."])
TARGETS = st.builds("/".join, st.lists(PARTS, min_size=1, max_size=5))
NAMES = st.sampled_from(["a", "b", "c", "a/a", "a/b", "b/a", "b/c", "a/b/c", "c/c/c"])


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.dictionaries(NAMES, TARGETS, max_size=7))
def test_the_link_resolver_never_trusts_where_the_kernel_would_leave(
    tmp_path_factory: pytest.TempPathFactory, wanted: dict[str, str]
) -> None:
    root = tmp_path_factory.mktemp("links") / "x" / "y" / "root"
    root.mkdir(parents=True)
    links: dict[str, str] = {}
    for path, target in sorted(wanted.items()):
        if any(path.startswith(f"{other}/") for other in links):
            continue
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        os.symlink(target, root / path)
        links[path] = target
    out = leading_out(links)
    for path in links:
        try:
            real = os.path.realpath(root / path, strict=True)
        except OSError:
            continue
        inside = real == str(root) or real.startswith(f"{root}/")
        assert inside or path in out, (path, links, real)


ENTRIES = st.one_of(
    st.builds(lambda path, data: tuple(file(path, data)), NAMES, st.binary(max_size=5)),
    st.builds(lambda path: tuple(directory(path)), NAMES),
    st.builds(lambda path, target: tuple(link(path, target)), NAMES, st.one_of(TARGETS, st.just("/"))),
    st.builds(lambda path, target: tuple(hard(path, target)), NAMES, NAMES),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(ENTRIES, max_size=12))
def test_any_sequence_is_contained(
    tmp_path_factory: pytest.TempPathFactory, groups: list[tuple[Entry | Piece, ...]]
) -> None:
    base = tmp_path_factory.mktemp("any")
    outside, place = base / "outside", base / "place"
    outside.mkdir()
    place.mkdir()
    (outside / "secret").write_bytes(b"canary")
    before = snapshot(outside)
    complete = True
    try:
        export_tree([item for group in groups for item in group], place / "out", kind="directory")
    except PyroError:
        complete = False
    assert os.listdir(place) == (["out"] if complete else [])
    assert snapshot(outside) == before
    for directory_path, names, files in os.walk(place):
        for name in [*names, *files]:
            real = os.path.realpath(os.path.join(directory_path, name))
            assert real.startswith(f"{place}/")
