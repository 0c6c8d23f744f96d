"""service_group: all processes of a service, ended together.

In a guest it is a control group, which a process leaves only if root moves it out: sessions,
double forks and a cleared environment make no difference. Without control groups (`host_compat`) it is every process
that carries the service's run tag in its environment, which a program can shed; the end of the workspace gets that too.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol

from pyro_mcp.guest.exec.tagged import Tagged
from pyro_mcp.guest.syscalls import MS_NODEV, MS_NOEXEC, MS_NOSUID, mount

HOME = "/run/pyro/cgroup"
RUN_TAG = b"PYRO_SERVICE"


class Group(Protocol):
    """The processes of one run of a service."""

    enter: Callable[[], None] | None
    """What a child does between fork and exec to become a member."""

    events: int
    """A descriptor that has POLLPRI when the group may have become empty; -1 when `kill` leaves it empty at once."""

    def kill(self) -> None: ...

    def empty(self) -> bool: ...

    def close(self) -> None: ...


Groups = Callable[[str], Group]
"""Makes the group of the run with this id."""


class ControlGroup:
    """A control group of version 2."""

    def __init__(self, run: str) -> None:
        """Raises `OSError`."""
        _mounted()
        self._path = f"{HOME}/{run}"
        os.mkdir(self._path, 0o755)
        self.events = os.open(f"{self._path}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
        self._members = os.open(f"{self._path}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
        self.enter: Callable[[], None] | None = self._enter

    def _enter(self) -> None:
        os.write(self._members, b"0")

    def kill(self) -> None:
        fd = os.open(f"{self._path}/cgroup.kill", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b"1")
        finally:
            os.close(fd)

    def empty(self) -> bool:
        return b"populated 0" in os.pread(self.events, 256, 0)

    def close(self) -> None:
        os.close(self.events)
        os.close(self._members)
        try:
            os.rmdir(self._path)
        except OSError:
            pass  # A process that cannot be killed (a dead disk) keeps its group; the machine's end takes both.


class TaggedGroup:
    """The processes whose environment at their start said that they belong to the run."""

    events = -1
    enter: Callable[[], None] | None = None

    def __init__(self, run: str) -> None:
        self._tagged = Tagged(RUN_TAG, run.encode())

    def kill(self) -> None:
        self._tagged.kill()

    def empty(self) -> bool:
        return not self._tagged.members()

    def close(self) -> None:
        """Nothing is kept."""


def _mounted() -> None:
    """The control groups' tree, mounted when the first service is started."""
    if not os.path.exists(f"{HOME}/cgroup.procs"):
        os.makedirs(HOME, exist_ok=True)
        mount("cgroup2", HOME, "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC)
