"""Wake: how another thread interrupts a poll loop."""

from __future__ import annotations

import os
import threading


class Wake:
    """An eventfd to poll for reading. Any thread may `set` it, until it is closed and, without effect, after."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._lock = threading.Lock()
        self._set = False

    def set(self) -> None:
        with self._lock:
            if self.fd >= 0 and not self._set:
                self._set = True
                os.eventfd_write(self.fd, 1)

    def clear(self) -> None:
        with self._lock:
            if self._set:
                self._set = False
                os.eventfd_read(self.fd)

    def close(self) -> None:
        with self._lock:
            if self.fd >= 0:
                os.close(self.fd)
                self.fd = -1
