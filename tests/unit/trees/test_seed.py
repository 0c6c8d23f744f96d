"""What a seed image holds is what was given, read back by another program."""

from __future__ import annotations

import errno
import gzip
import os
import re
import subprocess
import tarfile
import threading
from pathlib import Path

import pytest

from pyro_mcp.errors import Cancelled, DiskFull, InvalidArgument, PyroError, Unsupported
from pyro_mcp.protocol.entries import EntryDecoder, EntryError
from pyro_mcp.system.sparse import digest_sparse
from pyro_mcp.trees import work
from pyro_mcp.trees.archive import ArchiveSource
from pyro_mcp.trees.ext4_image import ImageWriter
from pyro_mcp.trees.ext4_reader import SeedImage
from pyro_mcp.trees.flow import encoded
from pyro_mcp.trees.limits import Limits
from pyro_mcp.trees.seed import SeedReport, build_seed, open_source

from .conftest import contents, snapshot

DEVICE = 1 << 38


def build(source: Path, image: Path, limits: Limits | None = None) -> SeedReport:
    return build_seed(open_source(source), source, image, device_bytes=DEVICE, limits=limits)


def extracted(image: Path, target: Path) -> dict[str, tuple[object, ...]]:
    """The tree of a sound image, as the file system's own tool unpacks it, with the count of names it tells."""
    checked = subprocess.run(["e2fsck", "-fn", str(image)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    target.mkdir()
    subprocess.run(["debugfs", "-R", f"rdump / {target}", str(image)], check=True, capture_output=True)
    return bare(snapshot(target))


def bare(tree: dict[str, tuple[object, ...]]) -> dict[str, tuple[object, ...]]:
    """What debugfs can unpack: no sticky bits, and of hard links each as a file of its own."""
    return {
        path: entry[:1] + tuple(field & 0o777 if isinstance(field, int) else field for field in entry[1:3])
        for path, entry in tree.items()
    }


def told(image: Path, path: str) -> str:
    return subprocess.run(
        ["debugfs", "-R", f"stat {path}", str(image)], check=True, capture_output=True, text=True
    ).stdout


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "src"
    (root / "deep/er").mkdir(parents=True)
    (root / "empty").mkdir(mode=0o700)
    (root / "sticky").mkdir()
    (root / "sticky").chmod(0o1777)
    (root / "deep/er/run").write_bytes(b"#!/bin/sh\n" * 1000)
    (root / "deep/er/run").chmod(0o755)
    (root / "closed").write_bytes(b"x")
    (root / "closed").chmod(0)
    os.link(root / "deep/er/run", root / "twin")
    (root / "link").symlink_to("/etc/passwd")
    for name in ("\udcff", "new\nline", "-rf", "grün"):
        (root / name).write_bytes(b"odd")
    with (root / "sparse").open("wb") as file:
        file.truncate(1 << 20)
    return root


def test_a_directory_comes_back_the_same(tree: Path, tmp_path: Path) -> None:
    image = tmp_path / "w" / "seed.ext4"
    report = build(tree, image)
    assert os.stat(image).st_size == DEVICE
    assert os.stat(image).st_blocks * 512 < 4 << 20
    assert os.stat(image).st_mode & 0o777 == 0o600
    assert os.listdir(image.parent) == ["seed.ext4"]
    wanted = snapshot(tree)
    found = extracted(image, tmp_path / "out")
    assert found == bare(wanted)
    assert "Mode:  01777" in told(image, "/sticky")
    assert "Links: 2 " in told(image, "/twin")
    assert "Links: 5 " in told(image, "/")
    assert (report.mode, report.entry_count, report.skipped) == ("directory", len(wanted), [])
    assert report.bytes_written == 10_000 + 1 + 12 + (1 << 20)


def test_an_archive_gives_the_same_as_the_directory(tree: Path, tmp_path: Path) -> None:
    plain = tmp_path / "src.tar"
    with tarfile.open(plain, "w") as archive:
        archive.add(tree, arcname=".")
    (tmp_path / "src.tgz").write_bytes(gzip.compress(plain.read_bytes()))
    reports = [build(tmp_path / name, tmp_path / f"{name}.ext4") for name in ("src.tar", "src.tgz")]
    assert [report.mode for report in reports] == ["archive", "archive"]
    found = extracted(tmp_path / "src.tgz.ext4", tmp_path / "out")
    assert found == bare(snapshot(tree))


def test_equal_content_gives_equal_images(tree: Path, tmp_path: Path) -> None:
    images = [tmp_path / name for name in ("one", "two", "three")]
    build(tree, images[0])
    build(tree, images[1])
    (tree / "closed").unlink()
    build(tree, images[2])
    first, second, third = map(digest_sparse, images)
    assert first == second != third


def test_an_empty_directory_is_a_seed(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    assert build(tmp_path / "none", tmp_path / "image").entry_count == 0
    assert extracted(tmp_path / "image", tmp_path / "out") == {}


def test_failure_leaves_what_was_there(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = tmp_path / "w" / "image"
    build(tree, image)
    before = os.stat(image)
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(InvalidArgument, match="more than 3 files"):
        build(tree, image, Limits(entries=3))
    with pytest.raises(Cancelled):
        build_seed(open_source(tree), tree, image, device_bytes=DEVICE, cancelled=cancelled)
    with pytest.raises(Unsupported):
        build_seed(open_source(tree), tree, image, device_bytes=4096)
    broken = tmp_path / "broken.tar"
    broken.write_bytes(b"no tar" * 300)
    with pytest.raises(InvalidArgument):
        build_seed(ArchiveSource(broken), broken, image, device_bytes=DEVICE)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(DiskFull):
            build(tree, image)
    with monkeypatch.context() as patch:
        patch.setattr(ImageWriter, "checksum", property(lambda _: 1, lambda *_: None), raising=False)
        with pytest.raises(PyroError, match="names of"):
            build(tree, image)
    assert os.listdir(image.parent) == ["image"]
    assert (os.stat(image).st_ino, os.stat(image).st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_only_files_and_directories_are_sources(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidArgument, match="neither"):
        open_source(tmp_path / "pipe")
    for name, content in (("notes.md", b"text"), ("empty", b""), ("short", b"ustar")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InvalidArgument, match="neither a directory nor an archive") as caught:
            open_source(tmp_path / name)
        assert "<<push_workspace_sync>>" in (caught.value.hint or "")
    (tmp_path / "found").mkdir()
    for mode in ("w", "w:gz", "w:xz"):
        with tarfile.open(tmp_path / "nameless", mode) as archive:  # type: ignore[call-overload]
            archive.add(tmp_path / "found", "found")
        assert open_source(tmp_path / "nameless").mode == "archive"
    assert open_source(tmp_path / "missing.tar").mode == "archive"


def test_what_a_killed_build_left_goes_with_the_next(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "w"
    (place / ".seed-old" / "tree" / "closed").mkdir(parents=True)
    (place / ".seed-old" / "tree" / "closed").chmod(0)
    (place / ".seed-old").chmod(0o700)
    (place / ".seed-link").symlink_to(tree)
    build(tree, place / "image")
    assert (place / ".seed-old").exists()  # too young to tell
    monkeypatch.setattr(work, "_SETTLED_SECONDS", -1.0)
    with work.work_directory(place, ".seed-") as held:
        build(tree, place / "image")
        assert held.exists()
    assert sorted(os.listdir(place)) == [".seed-link", "image"]
    assert (tree / "twin").exists()


def test_a_sequence_survives_its_journey(tree: Path) -> None:
    sent = list(encoded(open_source(tree)))
    whole, cut = EntryDecoder(), EntryDecoder()
    assert contents(item for piece in sent for item in whole.feed(piece)) == contents(open_source(tree))
    whole.close()
    assert (whole.count, whole.bytes) == (len(snapshot(tree)), 10_000 + 1 + 12)
    for piece in sent[:-1]:
        list(cut.feed(piece))
    with pytest.raises(EntryError):
        cut.close()


def test_names_that_a_tool_would_lose_arrive(tmp_path: Path) -> None:
    names = ["lost+found", "lost+found.txt", "a/lost+found/b", "n" * 255, "\N{SNOWMAN}" * 85, "a/" + "\udcfe" * 255]
    for name in names:
        (tmp_path / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "src" / name).write_text(name[:3], errors="surrogateescape")
    report = build(tmp_path / "src", tmp_path / "image")
    assert extracted(tmp_path / "image", tmp_path / "out") == bare(snapshot(tmp_path / "src"))
    assert (report.entry_count, report.skipped) == (len(names) + 2, [])


@pytest.mark.parametrize("seconds", [1 - (1 << 31), -1, 0, 1_600_000_000, (1 << 31) + 7, 4_200_000_000, 9_000_000_000])
def test_files_keep_their_times(tmp_path: Path, seconds: int) -> None:
    (tmp_path / "src").mkdir()
    file = tmp_path / "src" / "f"
    file.write_text("x")
    time = seconds * 1_000_000_000 + 123_456_789
    os.utime(file, ns=(time, time))
    build(tmp_path / "src", tmp_path / "image")
    with SeedImage(tmp_path / "image") as image:
        assert [node.mtime_ns for _, node in image.walk()] == [time]
    shown = re.search(r"mtime: 0x([0-9a-f]{8}):([0-9a-f]{8})", told(tmp_path / "image", "/f"))
    assert shown
    low, extra = int(shown[1], 16), int(shown[2], 16)
    assert (extra >> 2, (low - (low >> 31 << 32)) + ((extra & 3) << 32)) == (123_456_789, seconds)


@pytest.mark.parametrize("kind", ["directory", "archive"])
def test_a_name_that_the_agent_would_remove_is_refused(tmp_path: Path, kind: str) -> None:
    source = tmp_path / "source"
    (source / ".pyro-stage-mine").mkdir(parents=True)
    (source / ".pyro-stage-mine/f").write_text("mine")
    if kind == "archive":
        with tarfile.open(tmp_path / "a.tar", "w") as archive:
            archive.add(source / ".pyro-stage-mine/f", "./.pyro-stage-mine/f")
        source = tmp_path / "a.tar"
    with pytest.raises(InvalidArgument, match=r"pyro-stage-mine.* is reserved"):
        build(source, tmp_path / "image")
    assert not (tmp_path / "image").exists()
