"""Pipe: one bidirectional byte stream over file descriptors, with deadlines.

A Unix socket, a virtio-serial port and a pair of standard streams all look the same from here, so the channel above
never knows what carries it. Descriptors are made non-blocking; waiting is done in `poll`, together with a wake
descriptor, so that `close` from any thread ends every waiter at once.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections.abc import Iterator, Sequence

Buffer = bytes | bytearray | memoryview


class PipeClosed(Exception):
    """The stream ended: by the peer, or by `close` here."""


class Pipe:
    """Owns `read_fd` and `write_fd` (which may be the same) and closes them."""

    def __init__(self, read_fd: int, write_fd: int | None = None) -> None:
        self._read_fd = read_fd
        self._write_fd = read_fd if write_fd is None else write_fd
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._closing = threading.Event()
        self._users = 0
        self._lock = threading.Lock()
        for fd in {self._read_fd, self._write_fd}:
            os.set_blocking(fd, False)

    def read_into(self, buffer: memoryview, *, deadline: float | None = None) -> int:
        """Bytes read, at least 1. `deadline` is `time.monotonic()` seconds; past it raises `TimeoutError`."""
        with self._use():
            while True:
                try:
                    count = os.readv(self._read_fd, [buffer])
                except BlockingIOError:
                    self._wait(self._read_fd, select.POLLIN, deadline)
                    continue
                except OSError as error:
                    raise PipeClosed(str(error)) from error
                if count == 0:
                    raise PipeClosed("end of stream")
                return count

    def write_all(self, parts: Sequence[Buffer], *, deadline: float | None = None) -> None:
        """Write every byte of `parts`, in order. Callers serialize; a torn write ends the stream."""
        pending = [memoryview(part) for part in parts if len(part)]
        with self._use():
            while pending:
                try:
                    count = os.writev(self._write_fd, pending)
                except BlockingIOError:
                    self._wait(self._write_fd, select.POLLOUT, deadline)
                    continue
                except OSError as error:
                    raise PipeClosed(str(error)) from error
                while pending and count >= len(pending[0]):
                    count -= len(pending.pop(0))
                if count:
                    pending[0] = pending[0][count:]

    def close(self) -> None:
        """End every waiter and release the descriptors once the last has left. Safe from any thread, twice."""
        with self._lock:
            if self._closing.is_set():
                return
            self._closing.set()
            os.write(self._wake_write, b"x")
            if self._users == 0:
                self._release()

    @contextlib.contextmanager
    def _use(self) -> Iterator[None]:
        with self._lock:
            if self._closing.is_set():
                raise PipeClosed("closed here")
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._closing.is_set() and self._users == 0:
                    self._release()

    def _release(self) -> None:
        for fd in {self._read_fd, self._write_fd, self._wake_read, self._wake_write}:
            os.close(fd)

    def _wait(self, fd: int, events: int, deadline: float | None) -> None:
        poller = select.poll()
        poller.register(fd, events)
        poller.register(self._wake_read, select.POLLIN)
        remaining = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
        ready = dict(poller.poll(remaining))
        if self._closing.is_set():
            raise PipeClosed("closed here")
        if not ready:
            raise TimeoutError("deadline passed while waiting for the peer")
        got = ready.get(fd, 0)
        if got & (select.POLLHUP | select.POLLERR | select.POLLNVAL) and not got & events:
            raise PipeClosed("the peer hung up")
