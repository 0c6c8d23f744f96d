"""tagged: processes known by a variable that they were started with, whatever session, group or parent they have.

Their environment at their start tells, as /proc shows it. A program can shed it, with `env -i`; the end of the machine
gets that too.
"""

from __future__ import annotations

import os
import signal
import time

ROUNDS, REST_SECONDS = 100, 0.002


class Tagged:
    """The processes that started with the variable `name` set to `value`."""

    def __init__(self, name: bytes, value: bytes) -> None:
        self._tag = name + b"=" + value

    def kill(self) -> None:
        """Kill all. Repeated, because a process may fork between the look and the kill."""
        for _ in range(ROUNDS):
            found = self.members()
            for pid in found:
                try:
                    os.kill(pid, signal.SIGKILL)
                except (ProcessLookupError, PermissionError):
                    pass
            if not found:
                return
            time.sleep(REST_SECONDS)

    def members(self) -> list[int]:
        """Their numbers, from one look."""
        return [int(name) for name in os.listdir("/proc") if name.isdigit() and self._is_member(name)]

    def _is_member(self, name: str) -> bool:
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                return self._tag in file.read().split(b"\0")
        except OSError:
            return False
