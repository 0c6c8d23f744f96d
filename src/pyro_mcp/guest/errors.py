"""AgentError: what a verb raises on purpose. Codes are those of `pyro_mcp.errors`, which the agent may not import."""

from __future__ import annotations

import os
from typing import Any


class AgentError(Exception):
    """An answer of "cannot <verb> <thing>: <cause>", with a code that travels and a hint that says what to do."""

    def __init__(self, code: str, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint

    def to_wire(self) -> dict[str, Any]:
        """The error as it travels: `code`, `message` and `hint`."""
        return {"code": self.code, "message": self.message[:4096], "hint": self.hint}


def invalid(message: str, hint: str | None = None) -> AgentError:
    """The caller's parameters break a rule."""
    return AgentError("invalid_argument", message, hint)


def cause(error: OSError) -> str:
    """The operating system's words for `error`, without Python's dressing."""
    return os.strerror(error.errno) if error.errno else str(error)
