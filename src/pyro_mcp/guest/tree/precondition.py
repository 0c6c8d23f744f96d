"""precondition: the content a caller expects, so that two writers cannot overwrite each other unseen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyro_mcp.guest.errors import AgentError, invalid

ANY = object()
"""No precondition."""


def precondition(params: dict[str, Any]) -> object:
    """`ANY`, None for "must not exist", or the digest that the present content must have."""
    if "expected_sha256" not in params:
        return ANY
    value = params["expected_sha256"]
    if value is None:
        return None
    if not isinstance(value, str) or len(value) != 64 or set(value) - set("0123456789abcdef"):
        raise invalid("expected_sha256 must be 64 lower-case hex digits, or null for a file that must not exist")
    return value


def verify(cannot: Callable[[], str], expected: object, digest: Callable[[], str] | None) -> None:
    """Raise `conflict`, in a message that begins with `cannot()`, unless what is there is what the caller last saw.

    `digest` computes that of what is there; None: nothing is.
    """
    if expected is ANY:
        return
    if expected is None:
        if digest is not None:
            raise AgentError("conflict", f"{cannot()}: it exists already", "Read it first.")
        return
    hint = "Someone else changed it. Read it again, then decide."
    if digest is None:
        raise AgentError("conflict", f"{cannot()}: it no longer exists", hint)
    if digest() != expected:
        raise AgentError("conflict", f"{cannot()}: its content is not the expected", hint)
