"""The guest's end of the exchange disk, past its page cache: every copy of a byte costs an emulated guest 2 ns.

The disk is open before the freeze, and a restored guest finds its own behind it. Direct reads and writes need memory
and lengths in sectors, so pieces are read into aligned buffers that are handed out as they are, and used again once
nobody holds a view of them any more.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import struct
import sys
import threading

from pyro_mcp.protocol.exchange import HALF_BYTES, Exchange, buffer

SECTOR = 512
BUFFERS = 6
"""More than one stream at full speed holds; what comes beyond them is copied."""
_BLKDISCARD = 0x1277


class GuestExchange(Exchange):
    """The disk at `path`. Raises `OSError` when it cannot be opened."""

    def __init__(self, path: str) -> None:
        super().__init__(mine=HALF_BYTES, theirs=0)
        self._fd = os.open(path, os.O_RDWR | os.O_EXCL | os.O_DIRECT | os.O_CLOEXEC)
        # Whoever writes on it spoils transfers, so it stands in nobody's way; and as it is held, it cannot be mounted.
        os.unlink(path)
        self._buffers = [buffer() for _ in range(BUFFERS)]
        self._unheld = _references(self._buffers, 0)
        self._spare = buffer()
        self._bounce = buffer()
        self._bouncing = threading.Lock()

    def close(self) -> None:
        """A host that has gone away leaves what it did not take."""
        with contextlib.suppress(OSError):
            self.tidy()

    def _load(self, length: int, offset: int) -> bytes | memoryview:
        at = next((at for at in range(BUFFERS) if _references(self._buffers, at) == self._unheld), -1)
        view = memoryview(self._spare if at < 0 else self._buffers[at])
        needed = _sectors(length)
        if os.preadv(self._fd, [view[:needed]], offset) != needed:
            raise OSError(errno.EIO, "the exchange disk is too short")
        return bytes(view[:length]) if at < 0 else view[:length]

    def _store(self, data: memoryview, offset: int) -> None:
        if isinstance(data.obj, mmap.mmap) and len(data) % SECTOR == 0:
            try:
                self._write(data, offset)
                return
            except OSError as error:
                if error.errno != errno.EINVAL:  # It begins within a sector.
                    raise
        with self._bouncing:
            view = memoryview(self._bounce)
            view[: len(data)] = data
            self._write(view[: _sectors(len(data))], offset)

    def _write(self, data: memoryview, offset: int) -> None:
        if os.pwrite(self._fd, data, offset) != len(data):
            raise OSError(errno.EIO, "the exchange disk took a part")

    def _discard(self, offset: int, length: int) -> None:
        fcntl.ioctl(self._fd, _BLKDISCARD, struct.pack("QQ", offset, length))


def _references(buffers: list[mmap.mmap], at: int) -> int:
    """Who holds the buffer: each live view of it, and slices of views, count as one."""
    return sys.getrefcount(buffers[at])


def _sectors(length: int) -> int:
    return -(-length // SECTOR) * SECTOR
