"""How a command ends: it cannot be started, it times out, or it exits.

Each is reported as a shell does: 127 and 126 for what cannot be started, 124 after a timeout, 128 and the number after
a signal.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from typing import Any

from pyro_mcp.guest.errors import AgentError, invalid
from pyro_mcp.guest.exec.children import Child, SpawnError
from pyro_mcp.guest.exec.command import no_directory
from pyro_mcp.guest.exec.jobs import AgentJob
from pyro_mcp.protocol.channel import Stream

GRACE_SECONDS = 0.5


def not_started(peer: Stream | AgentJob, word: bytes, directory: bytes, error: SpawnError) -> dict[str, Any]:
    """The result of a command that is not there or cannot be run, with a line on its standard error.

    Raises `AgentError` when it is not the command's own fault.
    """
    shown = word[:256].decode("utf-8", "replace")
    if error.before:
        raise no_directory("run the command", directory, error)
    if error.errno == errno.E2BIG:
        raise invalid(f"cannot exec {shown}: arguments and environment are too long", "Pass data on standard input.")
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        code, text = 127, f"{shown}: command not found"
        if any(space in word for space in b" \t\n"):
            text += " (to run a shell line, use: sh -c '...')"
    elif error.errno in (errno.EACCES, errno.ENOEXEC, errno.EISDIR, errno.EPERM):
        code, text = 126, f"{shown}: cannot execute: {error}"
    else:
        raise AgentError("internal", f"cannot exec {shown}: {error}")
    peer.send(f"pyro: {text}\n".encode(), 2)
    return {"exit_code": code, "signal": None, "timed_out": False, "duration_ms": 0}


class TimeoutKiller:
    """The timeout: TERM to the group, then KILL after a short grace."""

    def __init__(self, child: Child, begun: float, timeout: float | None) -> None:
        self.timed_out = False
        self._child = child
        self._due = None if timeout is None else begun + timeout

    def expire(self) -> None:
        """The time is up, whatever the clock here says. From any thread; whoever calls `act` is to be woken."""
        if not self.timed_out:
            self._due = 0.0

    def act(self) -> float | None:
        """Do what is due; milliseconds until the next act, or None when there is none."""
        if self._due is None:
            return None
        remaining = self._due - time.monotonic()
        if remaining > 0:
            return remaining * 1000 + 1
        if self.timed_out:
            self._child.kill_group(signal.SIGKILL)
            self._due = None
            return None
        self.timed_out = True
        self._child.kill_group(signal.SIGTERM)
        # A stopped process takes the TERM only when continued.
        self._child.kill_group(signal.SIGCONT)
        self._due = time.monotonic() + GRACE_SECONDS
        return GRACE_SECONDS * 1000


def result_of(status: int, timed_out: bool, duration: float) -> dict[str, Any]:
    """What `exec` answers for a wait status and a duration in seconds."""
    code = os.waitstatus_to_exitcode(status)
    name = None
    if code < 0:
        name = _SIGNALS.get(-code, f"SIG{-code}")
        code = 128 - code
    if timed_out:
        code = 124
    return {"exit_code": code, "signal": name, "timed_out": timed_out, "duration_ms": round(duration * 1000)}


_SIGNALS = {int(number): number.name for number in signal.Signals}
