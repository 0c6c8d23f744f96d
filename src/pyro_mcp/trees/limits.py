"""The limits of a tree, and a meter that holds them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from pyro_mcp.errors import Cancelled, InvalidArgument

GIB = 1024**3
_EMIT_EVERY = 500


@dataclass(frozen=True)
class Limits:
    """Most members, most bytes (holes counted, since an image has none), and how far an archive may unfold:
    `ratio` times its packed size once `free_bytes` are passed."""

    entries: int = 200_000
    bytes: int = 8 * GIB
    ratio: int = 250
    free_bytes: int = 64 * 1024**2


def require_wanted(what: str, cancelled: threading.Event | None) -> None:
    """Raises `Cancelled` once `cancelled` is set. `what` completes "cannot finish …"."""
    if cancelled is not None and cancelled.is_set():
        raise Cancelled(f"cannot finish {what}: cancelled")


class Meter:
    """Counts members and bytes against `limits`, and gives both to `emit` now and then. `what` completes "cannot …"."""

    def __init__(
        self,
        limits: Limits,
        what: str,
        *,
        cancelled: threading.Event | None = None,
        emit: Callable[[int, int], None] | None = None,
    ) -> None:
        self.entries = 0
        self.bytes = 0
        self._limits = limits
        self._what = what
        self._cancelled = cancelled
        self._emit = emit

    def add(self, path: str, size: int) -> None:
        """Count one member. Raises `InvalidArgument` at the limit, `Cancelled`."""
        self.entries += 1
        self.bytes += size
        if self.entries > self._limits.entries:
            raise self._refused(f"more than {self._limits.entries:,} files and directories")
        if self.bytes > self._limits.bytes:
            max_ = f"{self._limits.bytes:,} bytes, holes in sparse files counted"
            raise self._refused(f"more than {max_}; passed at {ascii(path)[1:-1][:300]}")
        require_wanted(f"to {self._what}", self._cancelled)
        if self._emit is not None and self.entries % _EMIT_EVERY == 0:
            self._emit(self.entries, self.bytes)

    def _refused(self, cause: str) -> InvalidArgument:
        return InvalidArgument(f"cannot {self._what}: {cause}", hint="Leave out what the work does not need")
