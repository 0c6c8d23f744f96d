"""Workers: threads that run a channel's handlers."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable


class Workers:
    """Daemon threads that are kept for reuse, `ready` of them started ahead.

    Starting one costs a restored guest under emulation ten milliseconds, most of it for code not yet translated.
    """

    def __init__(self, ready: int = 0) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._idle = ready
        for _ in range(ready):
            self._start()

    def submit(self, job: Callable[[], None]) -> None:
        """Run `job` soon. Raises `RuntimeError` when that takes a thread and the system has none to give."""
        with self._lock:
            waiting = self._idle > 0
            self._idle -= waiting
        if not waiting:
            # Not under the lock: starting waits for the new thread, and those that are done must say so meanwhile, or
            # a peer in a hurry would have ever more of them started.
            self._start()
        self._jobs.put(job)

    def stop(self) -> None:
        """End every thread once it is done, also one that is only just being started."""
        self._jobs.put(None)

    def _start(self) -> None:
        threading.Thread(target=self._run, name="channel-worker", daemon=True).start()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            with self._lock:
                self._idle += 1
        self._jobs.put(None)
