"""A command as callers give it: a line, which is the shell's to read, or a list of words."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from pyro_mcp.model.text import whole_characters


def agent_request(
    command: str | list[str],
    *,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
    secret_env: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The command as an agent takes it: a list is run as it stands. A line is one for /bin/sh, in whose place the agent
    takes bash where its machine has it."""
    line = isinstance(command, str)
    params = {"shell": line, "cwd": cwd, "env": dict(env or {}), "secret_env": dict(secret_env or {})}
    argv = ["/bin/sh", "-c", command] if line else command
    return {"argv": argv} | {name: value for name, value in params.items() if value}


def display_text(command: str | list[str]) -> str:
    """The command as a person would type it."""
    return whole_characters(command if isinstance(command, str) else shlex.join(command))
