"""How long work tells what it is doing: one callable of a message and, when known, a fraction."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, float | None], None]
"""`progress(message, fraction)`: what happens now, and 0..1 of the whole or None when not known."""


def silent(message: str, fraction: float | None) -> None:
    """A `Progress` for callers that nobody watches."""


def scaled(progress: Progress, begin: float, end: float) -> Progress:
    """A `Progress` for one part of a larger job: its 0..1 becomes `begin`..`end` of `progress`."""

    def report(message: str, fraction: float | None) -> None:
        progress(message, None if fraction is None else begin + (end - begin) * min(max(fraction, 0.0), 1.0))

    return report
