"""A guest whose writes this host refuses is stopped, refused to whoever asks, and goes on when they are taken again.

Mostly there is no room, or a quota is used up. The guest never learns of it, so its file systems stay whole. QEMU tells
of the stop by an event; for room there is none, so that is looked for, and only while a guest is stopped.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pyro_mcp.errors import DiskFull, MachineFailed, PyroError
from pyro_mcp.machines.qemu.qmp import Qmp
from pyro_mcp.machines.qemu.vmm import Vmm
from pyro_mcp.protocol.channel import Channel, ChannelClosed, Stream
from pyro_mcp.system.atomic import FREE_SPACE
from pyro_mcp.system.threads import begin

log = logging.getLogger(__name__)

ROOM_BYTES = 16 * 1024**2
"""A guest goes on when so much is free; less would only stop it again."""
LOOK_SECONDS = 0.5
RETRY_SECONDS = 5.0
"""How often a guest tries again what is refused for another reason than room, which only trying can tell."""
STALLED = "io-error"
"""QEMU's own name for a guest that it has stopped because of a disk."""
_OUTLASTING = frozenset({"service_watch", "shell_attach", "tcp_connect"})
"""Requests that outlast a stop, like the commands that nobody waits for."""
NO_SPACE = os.strerror(errno.ENOSPC)
_NO_ROOM = (NO_SPACE, os.strerror(errno.EDQUOT))


def refusal(directory: Path, cause: str) -> PyroError:
    """What is answered for a machine that is stopped because this host refuses, for `cause`, what it writes."""
    what = f"cannot go on with the machine {directory.name}: this host's disk"
    if cause in _NO_ROOM:
        return DiskFull(
            f"{what} has no room for what it writes: {cause}",
            hint=f"Free {ROOM_BYTES >> 20} MiB or more where {directory} is; it goes on by itself then. Or delete it",
        )
    hint = f"Mend what keeps {directory} from being written; it goes on by itself then. Or delete it"
    return MachineFailed(f"{what} refuses what it writes: {cause}", hint=hint)


def lack_of_room(directory: Path) -> str | None:
    """Why this user may not write `ROOM_BYTES` more in `directory`; None when that is possible. It is tried, because a
    quota shows nowhere else."""
    try:
        found = os.statvfs(directory)
        if (found.f_bfree if os.geteuid() == 0 else found.f_bavail) * found.f_frsize < ROOM_BYTES:
            return NO_SPACE
        with tempfile.TemporaryFile(dir=directory) as file:
            os.posix_fallocate(file.fileno(), 0, ROOM_BYTES)
    except OSError as error:
        return os.strerror(error.errno) if error.errno in (errno.ENOSPC, errno.EDQUOT) else None
    return None


def is_stalled(process: Vmm) -> bool:
    """Whether QEMU says that it has stopped the guest because of a disk. One that says nothing may only be busy."""
    with contextlib.suppress(MachineFailed), contextlib.closing(process.connect_monitor()) as monitor:
        return _says_stalled(monitor)
    return False


def _says_stalled(monitor: Qmp) -> bool:
    return bool(monitor.execute("query-status").get("status") == STALLED)


class StallWatch:
    """Watches one guest over its monitor until it ends or its channel is closed."""

    def __init__(
        self, process: Vmm, channel: Channel, directory: Path, prepare: Callable[[], None] = lambda: None
    ) -> None:
        """`prepare` is called when a guest goes on that is stopped already now. Raises `MachineFailed`, `Capacity`."""
        self._monitor = process.connect_monitor()
        self._channel = channel
        self._directory = directory
        self._prepare = prepare
        self._closed = threading.Event()
        self._cause: str | None = None
        self._stalled = self._look()
        begin(self._run, f"stalls-{directory.name}")
        channel.on_close(lambda _: self._close())

    def _close(self) -> None:
        self._closed.set()
        self._monitor.disconnect()

    def _run(self) -> None:
        try:
            with contextlib.suppress(MachineFailed, ChannelClosed):
                while not self._closed.is_set():
                    if self._stalled:
                        self._wait_for_room()
                        self._go_on()
                    self._wait_for_stop()
                    self._stalled = self._look()
        finally:
            self._monitor.close()

    def _wait_for_stop(self) -> None:
        self._cause = None
        while (event := self._monitor.next_event())["event"] != "STOP":
            data = event.get("data", {})
            if event["event"] == "BLOCK_IO_ERROR" and data.get("action") == "stop":
                self._cause = str(data.get("reason"))

    def _look(self) -> bool:
        """Whether the guest is stopped; requests are refused then."""
        if not _says_stalled(self._monitor):
            return False
        # QEMU says why only once, and perhaps to an earlier node. It says so again if this is not the reason.
        self._cause = self._cause or lack_of_room(self._directory) or NO_SPACE
        error = refusal(self._directory, self._cause)
        log.warning(error.message)
        self._channel.standstill.begin(error.to_wire(), _outlasts)
        return True

    def _wait_for_room(self) -> None:
        pause = 0.0 if self._cause in _NO_ROOM else RETRY_SECONDS
        while not self._closed.wait(pause):
            if lack_of_room(self._directory) is None:
                return
            pause = LOOK_SECONDS
        raise ChannelClosed(self._channel.reason)

    def _go_on(self) -> None:
        self._monitor.execute("cont")
        self._prepare()
        self._prepare = lambda: None
        # Its clock stood still, too.
        self._channel.standstill.end("set_clock", {"time_ns": time.time_ns()})
        log.info(f"the machine {self._directory.name} goes on")


def _outlasts(stream: Stream) -> bool:
    return stream.verb in _OUTLASTING or "job" in stream.params


@contextlib.contextmanager
def ended_by_stall(process: Vmm, directory: Path) -> Iterator[None]:
    """A guest that nobody has asked anything yet is ended when it is stopped, or when what it is frozen into finds no
    room. Raises `DiskFull` then."""
    try:
        monitor = process.connect_monitor()
        begin(lambda: _end_when_stopped(process, monitor), f"stall-{directory.name}")
        try:
            yield
        finally:
            monitor.disconnect()
    except MachineFailed:
        if lack_of_room(directory) is not None:
            raise DiskFull(f"cannot make a guest: no room is left in {directory.parent}", hint=FREE_SPACE) from None
        raise


def _end_when_stopped(process: Vmm, monitor: Qmp) -> None:
    with contextlib.suppress(MachineFailed):
        while monitor.next_event()["event"] != "STOP":
            pass
        process.terminate()
    monitor.close()
