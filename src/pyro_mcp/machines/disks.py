"""The disks a guest gets besides its images: an empty scratch ext4 of its own and a blank stand-in for a seed."""

from __future__ import annotations

import os
from pathlib import Path

from pyro_mcp.system.atomic import staged

from pyro_mcp.system import process
from pyro_mcp.system.sparse import copy_sparse

MKFS = (
    *("mkfs.ext4", "-q", "-F", "-m", "0", "-b", "4096"),
    # Half the default inodes and no reserve: a scratch disk holds one agent's work. Tables are left to be
    # initialised lazily, which keeps the file a few hundred kilobytes until something is written.
    *("-i", "16384", "-J", "size=16", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard"),
)


def blank_scratch(cache_dir: Path, mib: int) -> Path:
    """The pristine ext4 image of `mib` MiB, made once per size and kept. Raises `MissingDependency`, `DiskFull`."""
    path = cache_dir / "blank" / f"scratch-{mib}.ext4"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with staged(path) as temporary:
            with temporary.open("wb") as file:
                os.truncate(file.fileno(), mib * 1024**2)
            process.run([*MKFS, str(temporary)])
    return path


def new_scratch(cache_dir: Path, target: Path, mib: int, *, device_bytes: int) -> None:
    """A fresh scratch disk at `target`: a file system of `mib` MiB on a device of constant virtual size."""
    copy_sparse(blank_scratch(cache_dir, mib), target, size=device_bytes)


def blank_device(cache_dir: Path, device_bytes: int) -> Path:
    """A shared, read-only, all-zero device for guests without a seed."""
    path = cache_dir / "blank" / "device"
    if not path.exists() or path.stat().st_size != device_bytes:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with staged(path) as temporary, temporary.open("wb") as file:
            os.truncate(file.fileno(), device_bytes)
    return path
