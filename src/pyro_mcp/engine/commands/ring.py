"""Ring: the last bytes of a stream of any length in a file of fixed size, written as a ring.

The file begins with three positions in the stream, so that whoever opens it later knows what in it can be trusted: from
where it was kept, up to where it is whole, and up to where somebody was about to write. Its space is taken at once: a
disk that fills up later does not reach it.
"""

from __future__ import annotations

import os
from pathlib import Path

TAIL_BYTES = 256 * 1024
_POSITION = 8
_HEADER = 3 * _POSITION
_BASE, _END, _GOAL = range(3)


class JournalRing:
    """The file at `path`, made for a stream that is at `position` if there is none. Every method raises `OSError`."""

    def __init__(self, path: Path, position: int) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            self._size = os.fstat(self._descriptor).st_size - _HEADER
            if self._size <= 0:
                self._size = TAIL_BYTES
                for which in (_BASE, _END, _GOAL):
                    self._set(which, position)
                os.posix_fallocate(self._descriptor, 0, _HEADER + self._size)
            self._base, self._goal = self._get(_BASE), self._get(_GOAL)
        except OSError:
            self.close()
            raise

    def write(self, data: bytes, position: int) -> None:
        """Keep `data`, which begins at `position` of the stream."""
        end = position + len(data)
        self._goal = max(self._goal, end)
        self._set(_GOAL, self._goal)
        position += max(0, len(data) - self._size)
        view = memoryview(data)[-self._size :]
        while view:
            at = position % self._size
            count = os.pwrite(self._descriptor, view[: self._size - at], _HEADER + at)
            position += count
            view = view[count:]
        self._set(_END, end)

    @property
    def end(self) -> int:
        """Up to where all of the stream was written."""
        return self._get(_END)

    def read(self, end: int) -> bytes:
        """The last bytes of a stream up to `end`, without those that a later write has begun to cover."""
        begin = min(end, max(self._base, end - self._size, self._goal - self._size))
        at = begin % self._size
        count = max(0, end - begin)
        first = os.pread(self._descriptor, min(count, self._size - at), _HEADER + at)
        return first + os.pread(self._descriptor, count - len(first), _HEADER)

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _get(self, which: int) -> int:
        return int.from_bytes(os.pread(self._descriptor, _POSITION, which * _POSITION), "little")

    def _set(self, which: int, position: int) -> None:
        os.pwrite(self._descriptor, position.to_bytes(_POSITION, "little"), which * _POSITION)
