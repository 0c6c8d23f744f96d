"""poller: one thread that watches descriptors and timers for all services.

Everything it calls runs on that thread and must not wait. It is started with the first thing to do, so a machine
without services never pays for it.
"""

from __future__ import annotations

import os
import queue
import select
import sys
import threading
import time
from collections.abc import Callable

Act = Callable[[], None]


class Poller:
    """Descriptors and timers of one thread. `post` may be called from any other, the rest only from its own."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._poll = select.poll()
        self._handlers: dict[int, Act] = {}
        self._timers: dict[tuple[object, str], tuple[float, Act]] = {}
        self._posted: queue.SimpleQueue[Act] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._wake = -1

    def post(self, act: Act) -> None:
        """Do `act` soon, on the thread."""
        self._posted.put(act)
        with self._lock:
            if self._wake < 0:
                self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
                self._poll.register(self._wake, select.POLLIN)
                threading.Thread(target=self._run, name=self._name, daemon=True).start()
            os.eventfd_write(self._wake, 1)

    def watch(self, fd: int, events: int, act: Act) -> None:
        """Call `act` whenever `fd` is ready, until `forget`."""
        self._handlers[fd] = act
        self._poll.register(fd, events)

    def forget(self, fd: int) -> None:
        """Idempotent; to be called before `fd` is closed."""
        if self._handlers.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def after(self, owner: object, name: str, seconds: float, act: Act) -> None:
        """Call `act` once in `seconds`, in place of an earlier timer of that name."""
        self._timers[owner, name] = (time.monotonic() + seconds, act)

    def pending(self, owner: object, name: str) -> bool:
        return (owner, name) in self._timers

    def drop(self, owner: object, name: str) -> None:
        self._timers.pop((owner, name), None)

    def _run(self) -> None:
        while True:
            ready = [(fd, self._handlers.get(fd)) for fd, _ in self._poll.poll(self._wait_ms())]
            for fd, handler in ready:
                if fd == self._wake:
                    os.eventfd_read(fd)
                elif handler is not None and self._handlers.get(fd) is handler:
                    # Otherwise an earlier handler has closed it, and the number may be somebody else's by now.
                    self._guarded(handler)
            while not self._posted.empty():
                self._guarded(self._posted.get())
            now = time.monotonic()
            for key in [key for key, (due, _) in self._timers.items() if due <= now]:
                if found := self._timers.pop(key, None):
                    self._guarded(found[1])

    def _wait_ms(self) -> float | None:
        if not self._timers:
            return None
        return max(0.0, (min(due for due, _ in self._timers.values()) - time.monotonic()) * 1000 + 1)

    @staticmethod
    def _guarded(act: Act) -> None:
        """What the system refuses one service must not end the thread that keeps the others."""
        try:
            act()
        except OSError as error:
            sys.excepthook(type(error), error, error.__traceback__)
