"""Leftovers: processes of a host machine whose agent is gone, found by the mark in their environment."""

from __future__ import annotations

import os
import signal
import time

MARK = "PYRO_MACHINE"
_ROUNDS = 200


def kill_marked(machine_id: str) -> None:
    """Kill every process of this user that carries the mark of `machine_id`, until none is left.

    Repeated, because a process may fork between the look and the kill; bounded, because one may refuse to die.
    """
    mark = f"{MARK}={machine_id}".encode()
    for _ in range(_ROUNDS):
        killed = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _kill(pid, mark)]
        if not killed:
            return
        time.sleep(0.005)


def _kill(pid: int, mark: bytes) -> bool:
    """Kill `pid` if it is marked and alive; whether it was."""
    if pid == os.getpid() or not _marked(pid, mark):
        return False
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        # Looked at again through the open handle's lifetime: the number may have changed hands since.
        if not _marked(pid, mark):
            return False
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return False
    finally:
        os.close(pidfd)
    return True


def _marked(pid: int, mark: bytes) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return mark in file.read().split(b"\0")
    except OSError:
        return False
