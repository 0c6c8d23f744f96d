"""Faults: named points between an intent and its outcome, where a test may raise or kill.

A release passes the empty hook; nothing outside the tests can set another one.
"""

from __future__ import annotations

from collections.abc import Callable

Faults = Callable[[str], None]
"""`faults(step)`: called when `step` has been reached and before the next effect."""


def no_faults(step: str) -> None:
    """The hook of every real node."""
