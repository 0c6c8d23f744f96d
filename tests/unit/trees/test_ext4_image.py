"""The images that we write are file systems to everybody: e2fsck, the kernel, and the reader of our own."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyro_mcp.errors import InvalidArgument, PyroError
from pyro_mcp.protocol.entries import Entry, Piece
from pyro_mcp.trees.ext4_directory import name_hash
from pyro_mcp.trees.ext4_image import ImageWriter
from pyro_mcp.trees.ext4_reader import SeedImage
from pyro_mcp.trees.limits import Limits

from .conftest import file

DEVICE = 1 << 38
TIME = 1_700_000_000_123_456_789


def write(image: Path, items: list[Entry | Piece], device_bytes: int = DEVICE) -> None:
    descriptor = os.open(image, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        writer = ImageWriter(descriptor, what="import x", device_bytes=device_bytes, limits=Limits(bytes=1 << 60))
        writer.write(items)
        writer.finish()
        os.ftruncate(descriptor, device_bytes)
    finally:
        os.close(descriptor)


def check(image: Path) -> None:
    done = subprocess.run(["e2fsck", "-fn", str(image)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """Where the kernel shows the image `tmp_path/image`, once it is mounted by `mount`."""
    where = tmp_path / "mounted"
    where.mkdir()
    yield where
    subprocess.run(["umount", str(where)], capture_output=True, check=False)


def mount(image: Path, where: Path) -> None:
    done = subprocess.run(["mount", "-o", "loop,ro", str(image), str(where)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("this host does not mount: the same is asked of a guest in tests/guest/test_seed_guest.py")


names = st.text("ab\n\N{SNOWMAN}\udcff", min_size=1, max_size=80).filter(
    lambda name: len(os.fsencode(name)) <= 255 and name not in (".", "..")
)
xattrs = st.dictionaries(
    st.text("abc\N{SNOWMAN}", min_size=1, max_size=20).map(lambda name: f"user.{name}"),
    st.binary(max_size=300),
    max_size=6,
).map(lambda found: tuple(sorted(found.items())))
times = st.integers(-(1 << 31) * 10**9, ((1 << 34) - (1 << 31)) * 10**9 - 1)


@st.composite
def trees(draw: st.DrawFn) -> list[Entry | Piece]:
    """Any sequence that a source could give."""
    items: list[Entry | Piece] = []
    directories, files, taken = [""], [], {""}
    for _ in range(draw(st.integers(0, 25))):
        above, name = draw(st.sampled_from(directories)), draw(names)
        path = f"{above}/{name}" if above else name
        if path in taken or path.count("/") > 200:
            continue
        taken.add(path)
        kind = draw(st.sampled_from(["file", "file", "directory", "symlink", "hardlink"]))
        if kind == "directory":
            items.append(Entry(path, kind, draw(st.integers(0, 0o3777)), draw(times), xattrs=draw(xattrs)))
            directories.append(path)
        elif kind == "symlink":
            items.append(Entry(path, kind, 0o777, draw(times), target=draw(st.text("x/", min_size=1, max_size=200))))
        elif kind == "hardlink" and files:
            items.append(Entry(path, kind, target=draw(st.sampled_from(files))))
        else:
            items += draw(
                st.builds(_file, st.just(path), times, xattrs, st.lists(st.binary(min_size=1, max_size=9000)))
            )
            files.append(path)
    return items


def _file(path: str, time: int, attributes: tuple[tuple[str, bytes], ...], parts: list[bytes]) -> list[Entry | Piece]:
    """A file of `parts`, with a hole before each."""
    extents, at = [], 0
    for number, part in enumerate(parts):
        at += (0, 1, 5000, 1 << 33)[number % 4]
        extents.append((at, len(part)))
        at += len(part)
    entry = Entry(path, "file", 0o640, time, at + 3, extents=tuple(extents), xattrs=attributes)
    return [entry, *(Piece(begin, part) for (begin, _), part in zip(extents, parts, strict=True))]


@settings(max_examples=60, deadline=None)
@given(trees())
def test_any_tree_is_sound_and_comes_back(tmp_path_factory: pytest.TempPathFactory, items: list[Entry | Piece]) -> None:
    image = tmp_path_factory.mktemp("image") / "image"
    write(image, items)
    check(image)
    wanted = {item.path: item for item in items if isinstance(item, Entry)}
    with SeedImage(image) as seed:
        found = {os.fsdecode(path): node for path, node in seed.walk()}
        assert found.keys() == wanted.keys()
        last = ""
        for item in items:
            if isinstance(item, Piece):
                assert seed.read(found[last], item.offset, len(item.data)) == item.data
                continue
            last, node = item.path, found[item.path]
            if item.type == "hardlink":
                assert node.number == found[item.target].number
                continue
            assert (node.mtime_ns, seed.xattrs(node)) == (item.mtime_ns, item.xattrs)
            assert node.mode & 0o7777 == item.mode
            if item.type == "symlink":
                assert seed.target(node) == os.fsencode(item.target)
            elif item.type == "file":
                assert node.size == item.size
                data = sum(length for _, length, _ in seed.extents(node))
                assert data <= item.stored + 8192 * len(item.extents or ())


@pytest.mark.parametrize("count", [1, 20, 150, 2_000, 40_000])
def test_a_crowded_directory_is_found_by_name(tmp_path: Path, mounted: Path, count: int) -> None:
    items: list[Entry | Piece] = [Entry("d", "directory", 0o755, TIME)]
    width = 20 if count < 10_000 else 120
    crowd = [f"{number:0{width}d}" for number in range(count)]
    items += [Entry(f"d/{name}", "symlink", 0o777, TIME, target="x") for name in crowd]
    write(tmp_path / "image", items)
    check(tmp_path / "image")
    mount(tmp_path / "image", mounted)
    assert sorted(os.listdir(mounted / "d")) == crowd
    for name in crowd:
        os.lstat(mounted / "d" / name)
    with pytest.raises(FileNotFoundError):
        os.lstat(mounted / "d" / "none")


def test_names_of_one_hash_are_found_on_both_sides_of_a_border(tmp_path: Path, mounted: Path) -> None:
    """256 names of eight bytes fill a block of the directory; the 256th and the 257th have the same hash."""
    hashed = sorted((name_hash(name), name) for number in range(200_000) for name in (b"%08d" % number,))
    first = next(at for at in range(300, len(hashed)) if hashed[at][0] == hashed[at + 1][0])
    crowd = [os.fsdecode(name) for _, name in hashed[first - 255 : first + 1000]]
    write(tmp_path / "image", [Entry(name, "symlink", target="x") for name in crowd])
    check(tmp_path / "image")
    mount(tmp_path / "image", mounted)
    for name in crowd:
        os.lstat(mounted / name)


def test_what_ext4_cannot_hold_is_refused_by_name(tmp_path: Path) -> None:
    tree = file("f")
    for items, words in (
        (
            [*tree, *(Entry(f"h{number}", "hardlink", target="f") for number in range(65_000))],
            "'h64999' is one of more",
        ),
        ([Entry("l", "symlink", target="x" * 4096)], "'l' is longer"),
        ([Entry("d/x", "directory")], "'d/x' is below"),
        ([*tree, *tree], "'f' occurs twice"),
        ([Entry("h", "hardlink", target="f")], "no file before it"),
        ([Entry("w", "whiteout")], "no meaning"),
        ([*tree, Piece(0, b"x")], "belong to no file"),
        ([Entry("f", "file", size=9000, extents=((0, 1),)), Piece(8192, b"x")], "where 'f' has none"),
    ):
        with pytest.raises(InvalidArgument, match=words):
            write(tmp_path / "image", [*items])


def test_more_subdirectories_than_links_count(tmp_path: Path) -> None:
    write(tmp_path / "image", [Entry(f"d{number}", "directory", 0o755, TIME) for number in range(65_001)])
    check(tmp_path / "image")


def test_the_kernel_sees_what_was_written(tmp_path: Path, mounted: Path) -> None:
    attributes = (("user.a", b"1"), ("user.big", b"x" * 3000))
    items: list[Entry | Piece] = [
        Entry("d", "directory", 0o2775, TIME, xattrs=attributes),
        Entry("d/sparse", "file", 0o600, TIME, 2 << 30, extents=((1 << 30, 3),), xattrs=attributes),
        Piece(1 << 30, b"abc"),
    ]
    write(tmp_path / "image", items)
    check(tmp_path / "image")
    mount(tmp_path / "image", mounted)
    about = os.stat(mounted / "d/sparse")
    assert (about.st_size, about.st_mtime_ns, about.st_uid) == (2 << 30, TIME, 0)
    assert about.st_blocks * 512 <= 8192
    assert os.stat(mounted / "d").st_mode & 0o7777 == 0o2775
    for path in (mounted / "d", mounted / "d/sparse"):
        assert {name: os.getxattr(path, name) for name in os.listxattr(path)} == dict(attributes)
    with (mounted / "d/sparse").open("rb") as shown:
        shown.seek(1 << 30)
        assert shown.read(5) == b"abc\0\0"


def test_a_small_device_holds_what_fits(tmp_path: Path) -> None:
    write(tmp_path / "image", file("f", b"x" * 5000), device_bytes=64 * 4096)
    check(tmp_path / "image")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_image_is_told(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    image = tmp_path_factory.mktemp("image") / "image"
    items: list[Entry | Piece] = [Entry("d", "directory", 0o755, TIME, xattrs=(("user.a", b"1"),))]
    items += [item for number in range(200) for item in file(f"d/{number:060d}", b"x" * 5000)]
    write(image, items, device_bytes=1 << 23)
    raw = bytearray(image.read_bytes())
    for _ in range(data.draw(st.integers(1, 30))):
        raw[data.draw(st.integers(1024, 8192) | st.integers(0x1A0000, 0x1C0000))] = data.draw(st.integers(0, 255))
    image.write_bytes(raw)
    # Whatever else it would raise ends the test.
    with contextlib.suppress(PyroError), SeedImage(image) as seed:
        for _, node in seed.walk():
            seed.xattrs(node)
            if not node.is_directory:
                seed.read(node, 0, 9000)
