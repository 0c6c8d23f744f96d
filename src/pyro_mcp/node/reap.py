"""Reap: remove machines and workspaces when their time is up, also when no command runs and nobody is connected.

One thread sleeps until the earliest deadline and is woken when machines come or go; it never polls.
"""

from __future__ import annotations

import logging
import threading

from pyro_mcp.engine.engine import Engine
from pyro_mcp.errors import PyroError

_log = logging.getLogger(__name__)

LONGEST_SLEEP = 300.0
"""A waiting thread does not count time in suspend; the boot clock, on which machines live, does."""
RETRY_SECONDS = 5.0


class Reaper:
    """Watches over the lives of `engine`'s machines until `stop`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._changed = threading.Condition()
        self._news = False
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="reaper", daemon=True)

    def start(self) -> None:
        self._engine.on_change(self._wake)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and wait for a removal under way."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join()

    def _wake(self) -> None:
        with self._changed:
            self._news = True
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            seconds = self._work()
            with self._changed:
                self._changed.wait_for(lambda: self._news or self._stopped, seconds)
                self._news = False
                if self._stopped:
                    return

    def _work(self) -> float | None:
        """Remove what has expired; seconds until there is more to do."""
        try:
            remaining = self._engine.next_expiry()
            if remaining is not None and remaining <= 0:
                self._engine.reap()
                remaining = self._engine.next_expiry()
        except PyroError as error:
            _log.warning(f"cannot look for what has expired: {error}")
            return RETRY_SECONDS
        if remaining is None:
            return None
        # One that resists its removal stays overdue: try again later, not at once.
        return min(remaining, LONGEST_SLEEP) if remaining > 0 else RETRY_SECONDS
