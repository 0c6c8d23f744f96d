"""Entries become a seed: a read-only image that a guest finds as its disk `seed`, whole or absent."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pyro_mcp.errors import InvalidArgument, PyroError
from pyro_mcp.model.count import count_of
from pyro_mcp.model.sync import Skipped
from pyro_mcp.protocol.entries import STAGE_PREFIX, Entry, Piece
from pyro_mcp.system.atomic import disk_errors, make_directory, sync_directory
from pyro_mcp.system.progress import Progress, silent
from pyro_mcp.trees.archive import ArchiveSource
from pyro_mcp.trees.ext4_image import ImageWriter, path_checksum
from pyro_mcp.trees.ext4_reader import SeedImage
from pyro_mcp.trees.limits import Limits
from pyro_mcp.trees.source import DirectorySource
from pyro_mcp.trees.work import work_directory

Source = DirectorySource | ArchiveSource


@dataclass(frozen=True)
class SeedReport:
    """What a seed holds. `mode` is "directory" or "archive", `bytes_written` the files' bytes."""

    mode: str
    seed_path: str
    destination: str
    entry_count: int
    bytes_written: int
    skipped: list[Skipped]


def open_source(path: Path, *, limits: Limits | None = None, cancelled: threading.Event | None = None) -> Source:
    """`path` as a source by what it is: a directory, or else an archive. Errors come when it is read."""
    if path.is_dir():
        return DirectorySource(path, limits=limits, cancelled=cancelled)
    if path.exists() and not path.is_file():
        hint = "Give a directory, a .tar, a .tar.gz or a .tgz"
        raise InvalidArgument(f"cannot read {path}: it is neither a directory nor a file", hint=hint)
    return ArchiveSource(path, limits=limits, cancelled=cancelled)


def build_seed(
    source: Source,
    seed_path: Path,
    image: Path,
    *,
    device_bytes: int,
    destination: str = "/workspace",
    limits: Limits | None = None,
    progress: Progress = silent,
    cancelled: threading.Event | None = None,
) -> SeedReport:
    """Write everything `source` yields into the new `image`, a sparse device of `device_bytes`, and flush it.

    Works in a private directory beside `image`. Raises what `source` raises, `DiskFull`, `Unsupported`, `Cancelled`;
    then `image` is as it was.
    """

    def emit(entries: int, size: int) -> None:
        progress(
            f"Reading {seed_path}: {count_of(entries, 'entry', 'entries', grouped=True)}, {size / 1e6:,.0f} MB", None
        )

    with disk_errors("make a seed image"), work_directory(make_directory(image.parent), ".seed-") as work:
        descriptor = os.open(work / "image", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            writer = ImageWriter(
                descriptor,
                what=f"import {seed_path}",
                device_bytes=device_bytes,
                limits=limits,
                cancelled=cancelled,
                emit=emit,
            )
            progress(f"Reading {seed_path}", None)
            writer.write(_open_names(source, seed_path))
            progress(f"Packing {count_of(writer.meter.entries, 'entry', 'entries', grouped=True)}", None)
            writer.finish()
            os.ftruncate(descriptor, device_bytes)
            _prove(writer, work / "image")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(work / "image", image)
        sync_directory(image.parent)
    size, count = writer.meter.bytes, writer.meter.entries
    return SeedReport(source.mode, str(seed_path), destination, count, size, source.skipped)


def _open_names(source: Source, path: Path) -> Iterator[Entry | Piece]:
    """The agent would take what has one of its own names for work that it left half done, and remove it."""
    for item in source:
        if isinstance(item, Entry) and os.fsencode(item.path).startswith(STAGE_PREFIX):
            raise InvalidArgument(
                f"cannot import {path}: the name {ascii(item.path)[1:-1][:200]} is reserved",
                hint="Leave it out of the source",
            )
        yield item


def _prove(writer: ImageWriter, image: Path) -> None:
    """Read every name back: an image that lacks one is no seed."""
    count = checksum = 0
    with SeedImage(image) as made:
        for path, _ in made.walk():
            count += 1
            checksum += path_checksum(path)
    if (count, checksum) != (writer.meter.entries, writer.checksum):
        raise PyroError(
            f"cannot make a seed image: it holds {count_of(count, 'name', grouped=True)} of {writer.meter.entries:,}"
        )
