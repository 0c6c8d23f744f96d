"""The disks a guest gets besides its images: an empty scratch ext4 of its own and a blank stand-in for a seed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from pyro_mcp.system import process
from pyro_mcp.system.atomic import disk_errors, make_directory
from pyro_mcp.system.sparse import copy_sparse

MKFS = (
    *("mkfs.ext4", "-q", "-F", "-m", "0", "-b", "4096"),
    # Half the default inodes and no reserve: a scratch disk holds one agent's work. Tables are left to be
    # initialised lazily, which keeps the file a few hundred kilobytes until something is written.
    *("-i", "16384", "-J", "size=16", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard"),
)


def new_scratch(cache_dir: Path, target: Path, mib: int, *, device_bytes: int) -> None:
    """A fresh scratch disk at `target`: a file system of `mib` MiB on a device of constant virtual size.

    The pristine image is made once per size and kept. Raises `MissingDependency` or `DiskFull`.
    """
    with disk_errors("make a scratch disk"):
        blank = cache_dir / "blank" / f"scratch-{mib}.ext4"
        if not blank.exists():
            _publish(blank, mib * 1024**2, lambda path: process.run([*MKFS, str(path)]))
        copy_sparse(blank, target, size=device_bytes)


def blank_device(cache_dir: Path, device_bytes: int) -> Path:
    """A shared, read-only, all-zero device for guests without a seed."""
    path = cache_dir / "blank" / f"device-{device_bytes}"
    if not path.exists():
        with disk_errors("make a blank disk"):
            _publish(path, device_bytes, lambda _: None)
    return path


def _publish(path: Path, size: int, fill: Callable[[Path], object]) -> None:
    """Make a sparse file of `size` bytes, `fill` it and give it its name; two makers at once both succeed."""
    make_directory(path.parent)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        temporary = Path(file.name)
        try:
            os.truncate(file.fileno(), size)
            fill(temporary)
            # Nobody looks into it again: one that lost its content with the power would spoil every disk made of it.
            os.fsync(file.fileno())
            os.rename(temporary, path)
        except BaseException:
            temporary.unlink()
            raise
