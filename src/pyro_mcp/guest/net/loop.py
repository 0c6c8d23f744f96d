"""loop: the one thread that waits for descriptors, for the host's answers and for the clock.

A callback that fails with an error of the system is logged on the console and does not end the loop; what root in
the guest breaks stays broken, without the agent dying of it or spinning on it.
"""

from __future__ import annotations

import _socket
import heapq
import itertools
import os
import select
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import NoReturn

from pyro_mcp.protocol.wake import Wake

Job = Callable[[], None]
_REST_SECONDS = 0.05


class Loop:
    """Callbacks run on the thread that is in `run`. Only `call` may be used from others."""

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log = log
        self._epoll = select.epoll(flags=select.EPOLL_CLOEXEC)
        self._readers: dict[int, Job] = {}
        self._calls: deque[Job] = deque()
        self._timers: list[tuple[float, int, Job]] = []
        self._numbers = itertools.count()
        self._wake = Wake()
        self.add(self._wake.fd, self._wake.clear)

    def add(self, fd: int, readable: Job) -> None:
        """Call `readable` whenever `fd` can be read."""
        self._epoll.register(fd, select.EPOLLIN)
        self._readers[fd] = readable

    def remove(self, fd: int) -> None:
        """Stop that; before `fd` is closed."""
        del self._readers[fd]
        self._epoll.unregister(fd)

    def call(self, job: Job) -> None:
        """Have `job` run soon. From any thread."""
        self._calls.append(job)
        self._wake.set()

    def later(self, seconds: float, job: Job) -> None:
        """Run `job` in so many seconds. There is no way to take it back."""
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._numbers), job))

    def run(self) -> NoReturn:
        """Serve for ever."""
        while True:
            self.turn()

    def turn(self) -> None:
        """Wait for something, and serve all of it."""
        try:
            ready = self._epoll.poll(self._patience())
        except OSError as error:
            self._complain(error)
            return
        for fd, _events in ready:
            # An earlier callback of this turn may have closed it.
            reader = self._readers.get(fd)
            if reader:
                self._run(reader)
        for _ in range(len(self._calls)):
            self._run(self._calls.popleft())
        while self._timers and self._timers[0][0] <= time.monotonic():
            self._run(heapq.heappop(self._timers)[2])

    def _patience(self) -> float | None:
        if self._calls:
            return 0.0
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None

    def _run(self, job: Job) -> None:
        try:
            job()
        except OSError as error:
            self._complain(error)

    def _complain(self, error: OSError) -> None:
        self._log(f"network: {os.strerror(error.errno) if error.errno else error}")
        time.sleep(_REST_SECONDS)


def accepted(listener: _socket.socket) -> Iterator[_socket.socket]:
    """The connections that wait now at `listener`, which does not block. Raises `OSError`.

    Without the module `socket`, whose import is dear under emulation.
    """
    while True:
        try:
            descriptor, _peer = listener._accept()  # type: ignore[attr-defined]
        except BlockingIOError:
            return
        yield _socket.socket(fileno=descriptor)
