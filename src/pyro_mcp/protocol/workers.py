"""Workers: threads that run a channel's handlers."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable


class Workers:
    """Daemon threads that are kept for reuse: starting one costs a guest under emulation a millisecond."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0
        self._threads = 0

    def submit(self, job: Callable[[], None]) -> None:
        with self._lock:
            if self._idle:
                self._idle -= 1
            else:
                self._threads += 1
                threading.Thread(target=self._run, name="channel-worker", daemon=True).start()
        self._jobs.put(job)

    def stop(self) -> None:
        with self._lock:
            for _ in range(self._threads):
                self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            with self._lock:
                self._idle += 1
