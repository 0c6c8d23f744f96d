"""The host's end of a machine's exchange disk: a sparse file in the machine's directory."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

from pyro_mcp.protocol.exchange import DISK_BYTES, HALF_BYTES, Exchange
from pyro_mcp.system.atomic import disk_errors
from pyro_mcp.system.sparse import punch_hole

NAME = "exchange"


def make(directory: Path) -> Path:
    """An empty exchange disk in `directory`. Raises `DiskFull` or `OSError`."""
    path = directory / NAME
    with disk_errors("make an exchange disk"):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, DISK_BYTES)
        finally:
            os.close(fd)
    return path


def find(directory: Path) -> HostExchange | None:
    """The host's end of the disk in `directory`; None for a machine of an earlier version, which has none."""
    try:
        return HostExchange(directory)
    except FileNotFoundError:
        return None


class HostExchange(Exchange):
    """The disk in `directory`, for one channel, with which it is closed. Raises `OSError` when it is not there."""

    def __init__(self, directory: Path) -> None:
        super().__init__(mine=0, theirs=HALF_BYTES)
        self._fd = os.open(directory / NAME, os.O_RDWR | os.O_CLOEXEC)
        # Around every use, so that a late one never meets another file under the same number.
        self._open = threading.Lock()
        self._used = True
        # A node that was killed leaves what it had lying there.
        self.tidy()

    def close(self) -> None:
        with self._open:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def _store(self, data: memoryview, offset: int) -> None:
        with self._open:
            while data:
                written = os.pwrite(self._require_fd(), data, offset)
                data, offset = data[written:], offset + written

    def _load(self, length: int, offset: int) -> bytes:
        with self._open:
            data = os.pread(self._require_fd(), length, offset)
        if len(data) != length:
            raise OSError(errno.EIO, "the file is too short")
        return data

    def _discard(self, offset: int, length: int) -> None:
        with self._open:
            punch_hole(self._require_fd(), offset, length)

    def _require_fd(self) -> int:
        if self._fd < 0:
            raise OSError(errno.EBADF, "the machine's channel has ended")
        return self._fd
