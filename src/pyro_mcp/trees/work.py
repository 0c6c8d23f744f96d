"""Private directories beside a result in which it is built.

What a killed process left there goes at the next turn in the same place, or when whoever recorded it
beforehand (`Track`) says so.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pyro_mcp.trees.writer import remove_tree

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SETTLED_SECONDS = 60.0
"""A directory younger than this may not be locked yet by whoever made it."""

Track = Callable[[Path], contextlib.AbstractContextManager[object]]
"""`track(work)`: entered before the directory `work` is made and left after it is gone."""


@contextlib.contextmanager
def work_directory(parent: Path, prefix: str, *, track: Track = contextlib.nullcontext) -> Iterator[Path]:
    """A new directory `parent/<prefix>…`, 0700, removed at the end whatever happens. Raises `OSError`."""
    sweep(parent, prefix)
    work = parent / f"{prefix}{secrets.token_hex(8)}"
    with track(work):
        work.mkdir(0o700)
        try:
            descriptor = os.open(work, _FLAGS)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                yield work
            finally:
                os.close(descriptor)
        finally:
            remove_tree(work)


def sweep(parent: Path, prefix: str) -> None:
    """Remove this user's work directories in `parent` that no living process holds."""
    with os.scandir(parent) as entries:
        found = [entry.path for entry in entries if entry.name.startswith(prefix)]
    for path in found:
        clear(Path(path), before=time.time() - _SETTLED_SECONDS)


def clear(work: Path, *, before: float = math.inf) -> None:
    """Remove the work directory `work` unless it is another's, changed after `before`, or held by a living process."""
    with contextlib.suppress(OSError):
        descriptor = os.open(work, _FLAGS)
        try:
            about = os.fstat(descriptor)
            ours = about.st_uid == os.geteuid() and stat.S_IMODE(about.st_mode) == 0o700
            if ours and about.st_ctime < before:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove_tree(work)
        finally:
            os.close(descriptor)
