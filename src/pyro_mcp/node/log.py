"""The node's log: what it and its libraries print, in one file that cannot grow without end.

Nobody watches a detached process, and a hostile guest can make it complain: past the bound, the file becomes
`node.log.1` and a new one begins, so at most twice the bound is ever kept.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
import time
from pathlib import Path

LOG_BYTES = 1024 * 1024


class BoundedLog(io.TextIOBase):
    """A text stream into `path` with a time before each line. Also takes over file descriptors 1 and 2."""

    def __init__(self, path: Path, *, limit: int = LOG_BYTES) -> None:
        self._path = path
        self._limit = limit
        self._lock = threading.Lock()
        self._size = 0
        self._at_line_start = True
        self._open()

    def install(self) -> None:
        """Send this process's standard output and error here."""
        sys.stdout = sys.stderr = self

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        with self._lock:
            for line in text.splitlines(keepends=True):
                stamp = time.strftime("%Y-%m-%dT%H:%M:%S ") if self._at_line_start else ""
                self._at_line_start = line.endswith("\n")
                self._put((stamp + line).encode("utf-8", "replace"))
        return len(text)

    def _put(self, data: bytes) -> None:
        try:
            if self._size + len(data) > self._limit:
                with contextlib.suppress(FileNotFoundError):
                    self._path.replace(self._path.with_suffix(".log.1"))
                self._open()
            self._size += os.write(2, data[: self._limit])
        except OSError:
            # A full disk, or a lack of descriptors, must not end whoever wanted to say so.
            pass

    def _open(self) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            self._size = os.fstat(descriptor).st_size
            for standard in (1, 2):
                os.dup2(descriptor, standard)
        finally:
            os.close(descriptor)
