"""Entries become a seed: a read-only image that a guest finds as its disk `seed`, whole or absent."""

from __future__ import annotations

import os
import stat
import threading
from dataclasses import dataclass
from pathlib import Path

from pyro_mcp.errors import InvalidArgument, Unsupported
from pyro_mcp.model.count import count_of
from pyro_mcp.system.atomic import disk_errors, make_directory, sync_directory
from pyro_mcp.system.process import require_program, run
from pyro_mcp.system.progress import Progress, silent
from pyro_mcp.system.sparse import digest_sparse
from pyro_mcp.trees.archive import ArchiveSource
from pyro_mcp.trees.limits import Limits, Skipped
from pyro_mcp.trees.source import DirectorySource
from pyro_mcp.trees.work import work_directory
from pyro_mcp.trees.writer import TreeWriter

_UUID = "70797265-6d63-7000-8000-000000000001"
_MKFS = ("mkfs.erofs", "--quiet", f"-U{_UUID}", "-x-1", "--all-root")
_ENVIRON = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "SOURCE_DATE_EPOCH": "4102444800"}
"""Equal trees give equal images. The year 2100 as epoch fixes the time of building and, since `mkfs.erofs` only cuts
later times down to the epoch, leaves files their own; `-T` would give all of them one."""
_SECONDS = 600.0

Source = DirectorySource | ArchiveSource


@dataclass(frozen=True)
class SeedReport:
    """What a seed holds. `mode` is "directory" or "archive", `digest` the image's, `bytes_written` the files' bytes."""

    mode: str
    seed_path: str
    destination: str
    entry_count: int
    bytes_written: int
    digest: str
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

    Works in a private directory beside `image`. Raises what `source` raises, `DiskFull`, `MissingDependency`,
    `Cancelled`; then `image` is as it was.
    """

    def tell(entries: int, size: int) -> None:
        progress(
            f"Reading {seed_path}: {count_of(entries, 'entry', 'entries', grouped=True)}, {size / 1e6:,.0f} MB", None
        )

    with disk_errors("make a seed image"), work_directory(make_directory(image.parent), ".seed-") as work:
        tree = work / "tree"
        tree.mkdir()
        what = f"import {seed_path}"
        with TreeWriter(tree, what=what, mask=0o1777, limits=limits, cancelled=cancelled, tell=tell) as writer:
            writer.write(source)
            writer.finish()
        tree.chmod(0o755)
        os.utime(tree, (0, 0))
        progress(f"Packing {count_of(writer.meter.entries, 'entry', 'entries', grouped=True)}", None)
        _pack(writer, work, cancelled)
        digest = _publish(work / "image", image, device_bytes)
    size, count = writer.meter.bytes, writer.meter.entries
    return SeedReport(source.mode, str(seed_path), destination, count, size, digest, source.skipped)


def _pack(writer: TreeWriter, work: Path, cancelled: threading.Event | None) -> None:
    argv = [*_MKFS, str(work / "image"), str(work / "tree")]
    files = all(mode & 0o400 for mode in writer.files.values())
    directories = all(entry.mode & 0o500 == 0o500 for entry in writer.directories.values())
    if os.geteuid() != 0 and not (files and directories):
        # Only the root of a user namespace may read what its owner has closed to himself.
        argv = [require_program("unshare"), "--user", "--map-root-user", require_program(argv[0]), *argv[1:]]
    run(argv, env=_ENVIRON, timeout=_SECONDS, cancelled=cancelled)


def _publish(built: Path, image: Path, device_bytes: int) -> str:
    with built.open("rb+") as file:
        if os.fstat(file.fileno()).st_size > device_bytes:
            raise Unsupported(f"cannot make a seed image: it is larger than the {device_bytes} bytes of its disk")
        os.ftruncate(file.fileno(), device_bytes)
        os.fchmod(file.fileno(), stat.S_IRUSR | stat.S_IWUSR)
        os.fsync(file.fileno())
    digest = digest_sparse(built)
    os.rename(built, image)
    sync_directory(image.parent)
    return digest
