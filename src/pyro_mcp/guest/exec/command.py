"""command: from what a request asks for to what is executed, and where."""

from __future__ import annotations

import os
from typing import Any

from pyro_mcp.guest import params as read
from pyro_mcp.guest.errors import AgentError, cause, invalid

BASH = b"/bin/bash"


def command(params: dict[str, Any]) -> list[bytes]:
    """`argv`, the words to execute. With `shell` they are a line for /bin/sh, which is bash's to read if there is one:
    only this machine knows."""
    argv = read.words(params, "argv")
    return for_bash(argv) if read.flag(params, "shell") else argv


def for_bash(argv: list[bytes]) -> list[bytes]:
    """A line's words, with bash in the place of the shell that they name, if this machine has it."""
    return [BASH, *argv[1:]] if os.access(BASH, os.X_OK) else argv


def programs(word: bytes, path: bytes) -> list[bytes]:
    """Where `word` may be found: itself when it has a slash, otherwise in each directory of `path`."""
    if b"/" in word:
        return [word]
    return [(entry or b".") + b"/" + word for entry in path.split(b":")]


def require_directory(purpose: str, path: bytes) -> None:
    """Raises `AgentError` unless `path` is a directory."""
    try:
        os.stat(path + b"/.")
    except OSError as error:
        raise no_directory(purpose, path, cause(error)) from None


def no_directory(purpose: str, path: bytes, why: object) -> AgentError:
    """The error for a working directory that nothing can start in. `purpose` completes "cannot"."""
    shown = path[:1024].decode("utf-8", "replace")
    return invalid(f"cannot {purpose}: working directory {shown}: {why}", "Name one that exists, or make it first.")
