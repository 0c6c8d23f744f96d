"""All or nothing on disk: build beside, flush, rename. A reader sees the old thing, the new thing, or nothing."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

from pyro_mcp.errors import Capacity, DiskFull, PermissionDenied, PyroError

FREE_SPACE = "Free disk space; <<prune_environments>> does where the cache is on the same disk"
MAKE_ROOM = "End other machines or programs of this host, or raise its limits (ulimit -n, ulimit -u)"
LACKING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)
"""No descriptor, no memory, no process."""


REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
"""Not for this user, or for nobody."""


@contextlib.contextmanager
def disk_errors(what: str, *, refused: str | None = None, on: Path | None = None) -> Iterator[None]:
    """Turn `OSError` into the error tree: "cannot <what>: <cause>". `refused`: the hint where writing is forbidden;
    `on`: what is written to, where that need not be on a disk of pyro's own."""
    try:
        yield
    except OSError as error:
        cause = error.strerror or str(error)
        where = f" ({error.filename})" if error.filename else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = FREE_SPACE if on is None else f"Free some space where {on} is, or choose another place"
            raise DiskFull(f"cannot {what}: {cause}{where}", hint=hint) from error
        if error.errno in REFUSED:
            raise PermissionDenied(f"cannot {what}: {cause}{where}", hint=refused) from error
        if error.errno in LACKING:
            raise Capacity(f"cannot {what}: {cause}{where}", hint=MAKE_ROOM) from error
        raise PyroError(f"cannot {what}: {cause}{where}") from error


@contextlib.contextmanager
def unless_read_only() -> Iterator[None]:
    """Do without what is in the block where it may not be written."""
    try:
        yield
    except OSError as error:
        if error.errno not in REFUSED:
            raise


def make_directory(path: Path) -> Path:
    """`path` as a private directory (0700 where we make it), with its parents."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def write_file(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace `path` by `data`, durably; of two writers at once the last one wins. Raises `OSError`."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(beside, path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def publish_directory(built: Path, target: Path) -> None:
    """Flush the flat directory `built` and rename it to `target`; one that stands there already is replaced.

    The caller holds the lock of `target`. Raises `OSError`.
    """
    for entry in os.scandir(built):
        if entry.is_file(follow_symlinks=False):
            _sync(Path(entry.path), os.O_RDONLY)
    sync_directory(built)
    if target.exists():
        aside = built.with_name(f"{built.name}.old")
        os.rename(target, aside)
        os.rename(built, target)
        shutil.rmtree(aside)
    else:
        os.rename(built, target)
    sync_directory(target.parent)


def replace_link(link: Path, target: str) -> None:
    """Point the symbolic link `link` at `target`, whatever it pointed at before. Raises `OSError`."""
    beside = link.with_name(f".{link.name}.{os.getpid()}.{threading.get_ident()}.new")
    beside.unlink(missing_ok=True)
    beside.symlink_to(target)
    os.rename(beside, link)
    sync_directory(link.parent)


def sync_directory(path: Path) -> None:
    """Make renames and new names in `path` durable."""
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
