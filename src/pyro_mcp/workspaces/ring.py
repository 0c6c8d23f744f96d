"""Ring: the last bytes of a stream of any length in a file of fixed size, written round and round.

The file begins with the position in the stream from which it was kept, so that whoever opens it later knows what in it
has been written. Its space is taken at once: a disk that fills up later does not reach it.
"""

from __future__ import annotations

import os
from pathlib import Path

TAIL_BYTES = 256 * 1024
_HEADER = 8


class Ring:
    """The file at `path`, made for a stream that is at `position` if there is none. Every method raises `OSError`."""

    def __init__(self, path: Path, position: int) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            self._size = os.fstat(self._descriptor).st_size - _HEADER
            if self._size <= 0:
                self._size = TAIL_BYTES
                os.pwrite(self._descriptor, position.to_bytes(_HEADER, "little"), 0)
                os.posix_fallocate(self._descriptor, 0, _HEADER + self._size)
            self._base = int.from_bytes(os.pread(self._descriptor, _HEADER, 0), "little")
        except OSError:
            self.close()
            raise

    def write(self, data: bytes, position: int) -> None:
        """Keep `data`, which begins at `position` of the stream."""
        position += max(0, len(data) - self._size)
        view = memoryview(data)[-self._size :]
        while view:
            at = position % self._size
            count = os.pwrite(self._descriptor, view[: self._size - at], _HEADER + at)
            position += count
            view = view[count:]

    def read(self, end: int) -> bytes:
        """The last bytes of a stream that has been written up to `end`."""
        begin = max(self._base, end - self._size)
        at = begin % self._size
        count = max(0, end - begin)
        first = os.pread(self._descriptor, min(count, self._size - at), _HEADER + at)
        return first + os.pread(self._descriptor, count - len(first), _HEADER)

    def close(self) -> None:
        """Let go of the file. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
