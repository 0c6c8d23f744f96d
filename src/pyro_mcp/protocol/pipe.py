"""Pipe: one bidirectional byte stream over file descriptors, with deadlines.

A Unix socket, a virtio-serial port and a pair of standard streams all look the same from here, so the channel above
never knows what carries it. Descriptors are made non-blocking; waiting is done in `poll`, together with a wake
descriptor, so that `close` from any thread ends every waiter at once.

A virtio-serial port moves at most 4 KiB per read and 32 KiB per write. Given such sizes, bulk transfers scatter and
gather over pieces of them, since the kernel calls the device once per piece and Python once for all.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Iterator, Sequence

Buffer = bytes | bytearray | memoryview
_MAX_PIECES = 64
FOREVER = float("inf")
PATIENT_MS = 1000.0


class PipeClosed(Exception):
    """The stream ended: by the peer, or by `close` here."""


class Pipe:
    """Owns `read_fd` and `write_fd` (which may be the same) and closes them, also when it cannot be made (`OSError`).
    One reader and one writer at a time.

    Deadlines that lie before `patience` (on `time.monotonic`) count from there: for a peer that is known to be stopped.
    `read_piece` and `write_piece` are the most bytes that the device moves per call; 0 means any number.
    """

    def __init__(self, read_fd: int, write_fd: int | None = None, *, read_piece: int = 0, write_piece: int = 0) -> None:
        self._read_fd = read_fd
        self._write_fd = read_fd if write_fd is None else write_fd
        self._read_piece = read_piece
        self._write_piece = write_piece
        self._bulk = False
        try:
            self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            for fd in {self._read_fd, self._write_fd}:
                os.close(fd)
            raise
        self.patience = 0.0
        self._closing = False
        self._released = threading.Event()
        self._users = 0
        self._lock = threading.Lock()
        for fd in {self._read_fd, self._write_fd}:
            os.set_blocking(fd, False)
        self._readable = self._poller(self._read_fd, select.POLLIN)
        self._writable = self._poller(self._write_fd, select.POLLOUT)

    def read_into(self, buffer: memoryview, *, deadline: float | None = None) -> int:
        """Bytes read, at least 1. `deadline` is `time.monotonic()` seconds; past it raises `TimeoutError`."""
        self._enter()
        try:
            while True:
                pieces = list(_pieces(buffer, self._read_piece)) if self._bulk else [buffer]
                try:
                    count = os.readv(self._read_fd, pieces)
                except BlockingIOError:
                    self._bulk = False
                    self._wait(self._readable, self._read_fd, select.POLLIN, deadline)
                    continue
                if count == 0:
                    raise PipeClosed("end of stream")
                # One full piece promises more; a small message should not pay for sixty-four.
                self._bulk = 0 < self._read_piece <= count
                return count
        except TimeoutError:
            raise
        except OSError as error:
            raise PipeClosed(str(error)) from error
        finally:
            self._leave()

    def write_all(self, parts: Sequence[Buffer], *, deadline: float | None = None) -> None:
        """Write every byte of `parts`, in order. Callers serialize; a torn write ends the stream."""
        pending: list[Buffer] = []
        for part in parts:
            if self._write_piece and len(part) > self._write_piece:
                view = memoryview(part)
                pending += (view[at : at + self._write_piece] for at in range(0, len(view), self._write_piece))
            elif len(part):
                pending.append(part)
        self._enter()
        try:
            while pending:
                self._require_open()
                try:
                    count = os.writev(self._write_fd, pending[:_MAX_PIECES])
                except BlockingIOError:
                    self._wait(self._writable, self._write_fd, select.POLLOUT, deadline)
                    continue
                while pending and count >= len(pending[0]):
                    count -= len(pending.pop(0))
                if count:
                    pending[0] = memoryview(pending[0])[count:]
        except TimeoutError:
            raise
        except OSError as error:
            raise PipeClosed(str(error)) from error
        finally:
            self._leave()

    def close(self) -> None:
        """End every waiter and release the descriptors once the last has left. Safe from any thread, twice."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
            os.write(self._wake_write, b"x")
            if self._users == 0:
                self._release()

    def join(self) -> None:
        """Wait until nobody reads or writes any more. Once closed that is at once: every user is at its last call."""
        self._released.wait()

    def _poller(self, fd: int, events: int) -> select.poll:
        poller = select.poll()
        poller.register(fd, events)
        poller.register(self._wake_read, select.POLLIN)
        return poller

    def _enter(self) -> None:
        with self._lock:
            self._require_open()
            self._users += 1

    def _require_open(self) -> None:
        if self._closing:
            raise PipeClosed("closed here")

    def _leave(self) -> None:
        with self._lock:
            self._users -= 1
            if self._closing and self._users == 0:
                self._release()

    def _release(self) -> None:
        for fd in {self._read_fd, self._write_fd, self._wake_read, self._wake_write}:
            os.close(fd)
        self._released.set()

    def _wait(self, poller: select.poll, fd: int, events: int, deadline: float | None) -> None:
        while not (ready := poller.poll(self._remaining_ms(deadline))):
            if self._remaining_ms(deadline) == 0:
                raise TimeoutError("deadline passed while waiting for the peer")
        self._require_open()
        got = dict(ready).get(fd, 0)
        if got & (select.POLLHUP | select.POLLERR | select.POLLNVAL) and not got & events:
            raise PipeClosed("the peer hung up")

    def _remaining_ms(self, deadline: float | None) -> float | None:
        if deadline is None:
            return None
        until = max(deadline, self.patience)
        # Nothing wakes a waiter when patience ends.
        return PATIENT_MS if until == FOREVER else max(0.0, until - time.monotonic()) * 1000


def _pieces(view: memoryview, size: int) -> Iterator[memoryview]:
    for start in range(0, min(len(view), size * _MAX_PIECES), size):
        yield view[start : start + size]
