"""Private directories beside a result in which it is built; what a killed process left goes at the next turn."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from pyro_mcp.trees.writer import remove_tree

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SETTLED_SECONDS = 60.0
"""A directory younger than this may not be locked yet by whoever made it."""


@contextlib.contextmanager
def work_directory(parent: Path, prefix: str) -> Iterator[Path]:
    """A new directory `parent/<prefix>…`, 0700, removed at the end whatever happens. Raises `OSError`."""
    sweep(parent, prefix)
    work = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    descriptor = os.open(work, _FLAGS)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield work
    finally:
        os.close(descriptor)
        remove_tree(work)


def sweep(parent: Path, prefix: str) -> None:
    """Remove this user's work directories in `parent` that no living process holds."""
    with os.scandir(parent) as entries:
        found = [entry.path for entry in entries if entry.name.startswith(prefix)]
    for path in found:
        with contextlib.suppress(OSError):
            descriptor = os.open(path, _FLAGS)
            try:
                about = os.fstat(descriptor)
                ours = about.st_uid == os.geteuid() and stat.S_IMODE(about.st_mode) == 0o700
                if ours and time.time() - about.st_ctime > _SETTLED_SECONDS:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    remove_tree(Path(path))
            finally:
                os.close(descriptor)
