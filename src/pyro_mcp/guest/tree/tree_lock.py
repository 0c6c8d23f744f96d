"""tree_lock: one change of a tree at a time, and none while a snapshot of it is saved, so that a snapshot is a state
that existed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from pyro_mcp.guest.errors import AgentError

WAIT_SECONDS = 30.0
"""Less than the silence after which a node asks whether an agent lives."""
LOOK_SECONDS = 0.2


class TreeLock:
    """`with turn(check): …`: wait for those before, calling `check` meanwhile, which raises to give up waiting.

    Raises `AgentError` `conflict` when it takes too long.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __call__(self, check: Callable[[], None]) -> TreeLock:
        deadline = time.monotonic() + WAIT_SECONDS
        while not self._lock.acquire(timeout=LOOK_SECONDS):
            check()
            if time.monotonic() > deadline:
                raise AgentError(
                    "conflict",
                    "cannot use /workspace now: a large change or snapshot of it has been under way for a while",
                    "Try again when it is done",
                )
        return self

    def __enter__(self) -> None:
        return

    def __exit__(self, *_: object) -> None:
        self._lock.release()
