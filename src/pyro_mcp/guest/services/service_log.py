"""service_log: the latest output of one stream of a service, in the agent's memory and in bounds.

Two segments: when the newer one is full it becomes the older one. A flood costs one copy of what is read and no disk,
and nothing that runs in the machine has a name for it.
"""

from __future__ import annotations

import os
import threading

SEGMENT_BYTES, SEGMENT_MIN = 256 * 1024, 16 * 1024
LOG_SHARE = 16
"""All logs together take at most about one part in so many of the machine's memory."""


class Log:
    """Keeps between one and two segments of the end of a stream. Safe to share between threads."""

    def __init__(self, segment: int) -> None:
        self._segment = segment
        self._lock = threading.Lock()
        self._old = bytearray()
        self._new = bytearray()
        self._dropped = False

    def add(self, data: bytes) -> None:
        with self._lock:
            self._new += data
            if len(self._new) >= self._segment:
                self._dropped = self._dropped or bool(self._old)
                self._old, self._new = self._new, bytearray()

    def tail(self, lines: int | None, limit: int | None = None) -> tuple[bytes, bool]:
        """The last `lines` lines, or all; and whether there was more. A first line that was cut is left out whole:
        the rest of it may be the rest of a secret."""
        with self._lock:
            whole = bytes(self._old + self._new)
            cut = self._dropped
        if limit is not None and len(whole) > limit:
            whole, cut = whole[-limit:], True
        if cut:
            whole = whole[whole.find(b"\n") + 1 :]
        start = 0 if lines is None else _line_start(whole, lines)
        return whole[start:], cut or start > 0


def _line_start(data: bytes, lines: int) -> int:
    """Where the last `lines` lines begin."""
    at = len(data) - data.endswith(b"\n")
    for _ in range(lines):
        at = data.rfind(b"\n", 0, at)
        if at < 0:
            return 0
    return at + 1


def segment_size(services: int) -> int:
    """The size of a segment, such that the logs of `services` services cannot fill this machine's memory."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(SEGMENT_MIN, min(SEGMENT_BYTES, memory // LOG_SHARE // (services * 4)))
