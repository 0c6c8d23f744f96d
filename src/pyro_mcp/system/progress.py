"""How long work reports progress: one callable of a message and, when known, a fraction."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from pyro_mcp.errors import PyroError

Progress = Callable[[str, float | None], None]
"""`progress(message, fraction)`: what happens now, and 0..1 of the whole or None when not known."""


def silent(message: str, fraction: float | None) -> None:
    """A `Progress` for callers that nobody watches."""


def scaled(progress: Progress, begin: float, end: float) -> Progress:
    """A `Progress` for one part of a larger job: its 0..1 becomes `begin`..`end` of `progress`."""

    def report(message: str, fraction: float | None) -> None:
        progress(message, None if fraction is None else begin + (end - begin) * min(max(fraction, 0.0), 1.0))

    return report


TICK_SECONDS = 5.0


@contextlib.contextmanager
def ticking(progress: Progress, message: str) -> Iterator[None]:
    """Say `message` at once, and again with the seconds that have passed while the block goes on."""
    done = threading.Event()
    begun = time.monotonic()

    def tick() -> None:
        # Whoever no longer listens is noticed by the work itself.
        with contextlib.suppress(PyroError):
            while not done.wait(TICK_SECONDS):
                progress(f"{message} ({int(time.monotonic() - begun)} s)", None)

    progress(message, None)
    thread = threading.Thread(target=tick, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
