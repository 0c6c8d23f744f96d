"""A command as callers give it: a line, which is the shell's to read, or a list of words."""

from __future__ import annotations

import shlex


def words(command: str | list[str]) -> list[str]:
    """The argument vector: a line is the shell's to read, a list is run as it stands."""
    return ["/bin/sh", "-c", command] if isinstance(command, str) else command


def display_text(command: str | list[str]) -> str:
    """The command as a person would type it."""
    return command if isinstance(command, str) else shlex.join(command)
