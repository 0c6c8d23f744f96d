"""What a seed image holds is what was given, read back by another program."""

from __future__ import annotations

import gzip
import os
import subprocess
import tarfile
import threading
from pathlib import Path

import pytest

from pyro_mcp.errors import Cancelled, DiskFull, InvalidArgument, Unsupported
from pyro_mcp.protocol.entries import Decoder, EntryError
from pyro_mcp.system.process import find_program
from pyro_mcp.trees import seed as module
from pyro_mcp.trees import work
from pyro_mcp.trees.archive import ArchiveSource
from pyro_mcp.trees.flow import encoded
from pyro_mcp.trees.limits import Limits
from pyro_mcp.trees.seed import SeedReport, build_seed, open_source

from .conftest import contents, snapshot

pytestmark = pytest.mark.skipif(find_program("mkfs.erofs") is None, reason="needs erofs-utils")
DEVICE = 1 << 38


def build(source: Path, image: Path, limits: Limits | None = None) -> SeedReport:
    return build_seed(open_source(source), source, image, device_bytes=DEVICE, limits=limits)


def extracted(image: Path, target: Path) -> dict[str, tuple[object, ...]]:
    subprocess.run(
        ["fsck.erofs", f"--extract={target}", "--preserve-perms", str(image)], check=True, capture_output=True
    )
    return snapshot(target)


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
    report = build(tree, tmp_path / "w" / "seed.erofs")
    image = tmp_path / "w" / "seed.erofs"
    assert os.stat(image).st_size == DEVICE
    assert os.stat(image).st_blocks * 512 < 4 << 20
    assert os.stat(image).st_mode & 0o777 == 0o600
    assert os.listdir(image.parent) == ["seed.erofs"]
    wanted = snapshot(tree)
    found = extracted(image, tmp_path / "out")
    # fsck.erofs writes each hard link as a file of its own; dump.erofs knows better.
    assert {path: entry[:3] for path, entry in found.items()} == {path: entry[:3] for path, entry in wanted.items()}
    dump = subprocess.run(["dump.erofs", "--path=/twin", str(image)], check=True, capture_output=True, text=True)
    assert "Links: 2" in dump.stdout
    assert (report.mode, report.entry_count, report.skipped) == ("directory", len(wanted), [])
    assert report.bytes_written == 10_000 + 1 + 12 + (1 << 20)


def test_an_archive_gives_the_same_as_the_directory(tree: Path, tmp_path: Path) -> None:
    plain = tmp_path / "src.tar"
    with tarfile.open(plain, "w") as archive:
        archive.add(tree, arcname=".")
    (tmp_path / "src.tgz").write_bytes(gzip.compress(plain.read_bytes()))
    reports = [build(tmp_path / name, tmp_path / f"{name}.erofs") for name in ("src.tar", "src.tgz")]
    assert [report.mode for report in reports] == ["archive", "archive"]
    found = extracted(tmp_path / "src.tgz.erofs", tmp_path / "out")
    assert {path: entry[:3] for path, entry in found.items()} == {
        path: entry[:3] for path, entry in snapshot(tree).items()
    }


def test_equal_content_has_an_equal_digest(tree: Path, tmp_path: Path) -> None:
    first, second = build(tree, tmp_path / "one"), build(tree, tmp_path / "two")
    assert first.digest == second.digest
    (tree / "closed").unlink()
    assert build(tree, tmp_path / "three").digest != first.digest


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

    def full(*_: object, **__: object) -> None:
        raise DiskFull("cannot finish mkfs.erofs: no space left on device")

    monkeypatch.setattr(module, "run", full)
    with pytest.raises(DiskFull):
        build(tree, image)
    assert os.listdir(image.parent) == ["image"]
    assert (os.stat(image).st_ino, os.stat(image).st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_only_files_and_directories_are_sources(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidArgument, match="neither"):
        open_source(tmp_path / "pipe")


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
    whole, cut = Decoder(), Decoder()
    assert contents(item for piece in sent for item in whole.feed(piece)) == contents(open_source(tree))
    whole.close()
    assert (whole.count, whole.bytes) == (len(snapshot(tree)), 10_000 + 1 + 12)
    for piece in sent[:-1]:
        list(cut.feed(piece))
    with pytest.raises(EntryError):
        cut.close()


def test_files_keep_their_times(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    file = tmp_path / "src" / "f"
    file.write_text("x")
    os.utime(file, ns=(1_600_000_000_123_456_789, 1_600_000_000_123_456_789))
    image = tmp_path / "seed.erofs"
    build(tmp_path / "src", image)
    shown = subprocess.run(["dump.erofs", "--path=/f", str(image)], check=True, capture_output=True, text=True).stdout
    assert "2020-09-13 12:26:40.123456789" in shown
