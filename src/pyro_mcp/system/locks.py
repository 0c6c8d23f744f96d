"""Locks between processes: `flock`, which the kernel takes back from whoever dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from pyro_mcp.errors import Cancelled

_CANCEL_INTERVAL = 0.2


@contextlib.contextmanager
def locked(
    path: Path,
    *,
    shared: bool = False,
    on_wait: Callable[[], None] | None = None,
    cancelled: threading.Event | None = None,
) -> Iterator[None]:
    """Hold the lock file `path` (made when absent, never removed), exclusively unless `shared`.

    Works between threads too: each holder opens the file for itself. `on_wait` is called once if somebody else holds
    it. Raises `Cancelled` when `cancelled` is set while waiting, and `OSError`.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        if not _try_lock(descriptor, kind):
            if on_wait is not None:
                on_wait()
            _wait_lock(descriptor, kind, cancelled)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def try_locked(path: Path) -> Iterator[bool]:
    """Hold the lock file `path` exclusively if it is free; yields whether it was."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield _try_lock(descriptor, fcntl.LOCK_EX)
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait_lock(descriptor: int, kind: int, cancelled: threading.Event | None) -> None:
    if cancelled is None:
        fcntl.flock(descriptor, kind)
        return
    # The kernel offers no event for "lock or cancel": ask five times a second.
    while not _try_lock(descriptor, kind):
        if cancelled.wait(_CANCEL_INTERVAL):
            raise Cancelled("cannot finish waiting for a lock: cancelled")
