"""Installs: what is fetched and built once for all belongs to the node, not to the call that was first to want it.

A call joins the work that is under way, hears at once how far it is, and may leave: the work goes on, so that a client
with a short limit comes to its machine by asking again. A pull is what a person asked for and nothing else, so work
that only pulls have joined ends with the last of them. All of it ends with the node.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, TypeVar, cast

from pyro_mcp.errors import Cancelled
from pyro_mcp.operations.call import Call
from pyro_mcp.system.progress import Progress
from pyro_mcp.system.threads import begin

T = TypeVar("T")
Work = Callable[[Progress, threading.Event], T]

CLOSE_SECONDS = 10.0
"""How long a node that ends lets what it was installing clean up; what is left then, the next build removes."""

_log = logging.getLogger(__name__)


class Installs:
    """The work under way, one for each name."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: dict[str, _Job] = {}
        self._running: set[_Job] = set()
        self._on_change: Callable[[], None] = lambda: None

    @property
    def busy(self) -> bool:
        """Whether anything is under way."""
        return bool(self._running)

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call `callback` whenever some work has ended."""
        self._on_change = callback

    def run(self, call: Call[Any], name: str, work: Work[T], *, keep: bool = True) -> T:
        """What `work` makes, begun here or joined; `name` says in words what is installed. Without `keep` the work ends
        when all who wait for it, and did not keep it either, have gone. Raises what `work` raises, and `Cancelled`."""
        job = self._joined(name, work, keep=keep)
        try:
            job.follow(call)
        finally:
            job.leave()
        if job.error is not None:
            raise job.error.with_traceback(None)
        return cast(T, job.result)

    def close(self) -> None:
        """End all that is under way."""
        with self._lock:
            running = list(self._running)
        for job in running:
            job.cancelled.set()
        for job in running:
            job.over.wait(CLOSE_SECONDS)

    def _joined(self, name: str, work: Work[Any], *, keep: bool) -> _Job:
        with self._lock:
            job = self._jobs.get(name)
            if job is not None and job.join(keep=keep):
                return job
            job = _Job(name)
            job.join(keep=keep)
            begin(lambda: self._work(job, work), "install")
            self._jobs[name] = job
            self._running.add(job)
            return job

    def _work(self, job: _Job, work: Work[Any]) -> None:
        try:
            job.result = work(job.tell, job.cancelled)
        # Whoever waits raises it again; without anybody there it must be in the log.
        except BaseException as error:  # noqa: BLE001
            job.error = error
            if not isinstance(error, Cancelled):
                _log.warning(f"cannot install {job.name}: {error}")
        with self._lock:
            if self._jobs.get(job.name) is job:
                del self._jobs[job.name]
            self._running.discard(job)
        job.finish()
        self._on_change()


class _Job:
    """One piece of work, and those who wait for it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.cancelled = threading.Event()
        self.over = threading.Event()
        self.result: Any = None
        self.error: BaseException | None = None
        self._moved = threading.Condition()
        self._told: tuple[str, float | None] | None = None
        self._count = 0
        self._waiting = 0
        self._kept = False

    def join(self, *, keep: bool) -> bool:
        """Be one of those who wait; False when the work is being given up."""
        with self._moved:
            if self.cancelled.is_set():
                return False
            self._waiting += 1
            self._kept = self._kept or keep
            return True

    def leave(self) -> None:
        with self._moved:
            self._waiting -= 1
            if not self._waiting and not self._kept:
                self.cancelled.set()

    def tell(self, message: str, fraction: float | None) -> None:
        """What the work has come to, for all who wait."""
        with self._moved:
            self._told = (message, fraction)
            self._count += 1
            self._moved.notify_all()

    def finish(self) -> None:
        self.over.set()
        self._wake()

    def follow(self, call: Call[Any]) -> None:
        """Report to `call` until the work is over. Raises `Cancelled` when the caller has gone."""
        forget, seen = call.on_cancel(self._wake), 0
        try:
            while True:
                with self._moved:
                    self._moved.wait_for(lambda: self.over.is_set() or self._count != seen or call.cancelled)  # noqa: B023
                    if self.over.is_set():
                        return
                    if call.cancelled:
                        raise Cancelled(f"cannot wait for {self.name}: the caller does not want it any more")
                    seen, told = self._count, self._told
                assert told is not None
                message, fraction = told
                call.progress(f"installing {self.name}: {message[:1].lower()}{message[1:]}", fraction)
        finally:
            forget()

    def _wake(self) -> None:
        with self._moved:
            self._moved.notify_all()
