"""Leftovers: processes of a host machine whose agent is gone, found by the run tag in their environment."""

from __future__ import annotations

import os
import signal
import time

RUN_TAG = "PYRO_MACHINE"
_ROUNDS = 200


def kill_tagged(machine_id: str) -> None:
    """Kill every process of this user that carries the run tag of `machine_id`, until none is left.

    Repeated, because a process may fork between the look and the kill; bounded, because one may refuse to die.
    """
    tag = f"{RUN_TAG}={machine_id}".encode()
    for _ in range(_ROUNDS):
        killed = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _kill(pid, tag)]
        if not killed:
            return
        time.sleep(0.005)


def _kill(pid: int, tag: bytes) -> bool:
    """Kill `pid` if it is marked and alive; whether it was."""
    if pid == os.getpid() or not _tagged(pid, tag):
        return False
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        # Looked at again through the open handle's lifetime: the number may have changed hands since.
        if not _tagged(pid, tag):
            return False
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return False
    finally:
        os.close(pidfd)
    return True


def _tagged(pid: int, tag: bytes) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return tag in file.read().split(b"\0")
    except OSError:
        return False
