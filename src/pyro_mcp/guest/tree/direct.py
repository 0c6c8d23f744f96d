"""direct: large files read and written past the guest's page cache, where every page costs an emulated guest dearly:
through it a large file is written at 50 MB/s, past it at 400.

The kernel wants memory, offsets and lengths on whole blocks for that. What does not lie so, and file systems that
cannot do it at all, get the usual way, piece by piece.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os

LARGE = 1024 * 1024
"""A smaller file is worth no switching, and may well be in the cache."""
BLOCK = 4096


class Switch:
    """Whether the file `fd` is used directly; off at first, and for good once it was refused."""

    def __init__(self, fd: int) -> None:
        self.on = False
        self._fd = fd
        self._refused = False

    def turn(self, on: bool) -> None:
        if on == self.on or (on and self._refused):
            return
        flags = fcntl.fcntl(self._fd, fcntl.F_GETFL)
        try:
            fcntl.fcntl(self._fd, fcntl.F_SETFL, flags | os.O_DIRECT if on else flags & ~os.O_DIRECT)
        except OSError as error:
            self.refuse(error)
            return
        self.on = on

    def refuse(self, error: OSError) -> None:
        """Go on without, if that is what the file system objected to; otherwise raise `error`."""
        if error.errno != errno.EINVAL or self._refused:
            raise error
        self._refused = True
        self.turn(False)


class LargeFile:
    """A new file `fd`. Its room is made as it grows: made ahead, it took four times as long."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._switch = Switch(fd)

    def write(self, data: bytes | memoryview, offset: int) -> None:
        """Write all of `data` at `offset`."""
        view = memoryview(data)
        aligned = isinstance(view.obj, mmap.mmap) and offset % BLOCK == 0
        whole = len(view) - len(view) % BLOCK if aligned else 0
        if whole:
            self._switch.turn(True)
            self._write(view[:whole], offset)
        if whole < len(view):
            self._switch.turn(False)
            self._write(view[whole:], offset + whole)

    def _write(self, view: memoryview, offset: int) -> None:
        while view:
            try:
                count = os.pwrite(self._fd, view, offset)
            except OSError as error:
                if not self._switch.on:
                    raise
                self._switch.refuse(error)
                continue
            view, offset = view[count:], offset + count


class Reader:
    """Reads the file `fd` piece by piece into one buffer: each piece is good until the next is read."""

    def __init__(self, fd: int, space: memoryview, *, large: bool) -> None:
        """`space` lies on whole pages. The buffer may be shared between readers."""
        self._fd = fd
        self._space = space
        self._switch = Switch(fd)
        self._switch.turn(large)

    def read(self, length: int, offset: int) -> memoryview:
        """Up to `length` bytes at `offset`, none at the file's end. Raises `OSError`."""
        length = min(length, len(self._space))
        while True:
            needed = min(len(self._space), -(-length // BLOCK) * BLOCK) if self._switch.on else length
            try:
                count = os.preadv(self._fd, [self._space[:needed]], offset)
            except OSError as error:
                if not self._switch.on:
                    raise
                self._switch.refuse(error)
                continue
            return self._space[: min(count, length)]
