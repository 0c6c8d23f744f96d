"""One QEMU process: spawned, watched and ended. It outlives the node that made it, and a later node finds it again."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

from pyro_mcp.errors import Capacity, MachineFailed
from pyro_mcp.machines.qemu.command import Sockets
from pyro_mcp.machines.qemu.qmp import Qmp
from pyro_mcp.machines.watched import WatchedProcess, held
from pyro_mcp.system.process import Identity, require_program
from pyro_mcp.system.sockets import connect_unix, listen_unix
from pyro_mcp.system.threads import begin

CONSOLE_BYTES = 64 * 1024
AGENT, MONITOR, CONSOLE, IDENTITY, LOG = "agent.sock", "monitor.sock", "console.sock", "vmm.json", "vmm.log"


def spawn(directory: Path, command: Callable[[Sockets], list[str]], *, mortal: bool = False) -> Vmm:
    """Start QEMU with its sockets in `directory`. A `mortal` one dies with the calling thread, which waits for it.
    Raises `MissingDependency` when there is no QEMU, and `OSError`.

    The sockets listen before QEMU starts, so nobody ever waits for them to appear.
    """
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(listen_unix(directory / name)) for name in (AGENT, MONITOR, CONSOLE)]
        log = stack.enter_context((directory / LOG).open("wb"))
        fds = [listener.fileno() for listener in listeners]
        argv = command(Sockets(*fds))
        argv[0] = require_program(argv[0])
        if mortal:
            argv = [require_program("setpriv"), "--pdeathsig", "KILL", *argv]
        child = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=fds,
            cwd=directory,
            start_new_session=True,
            # A limit on the size of files is an error then, as a full disk is, and not the end of the guest.
            restore_signals=False,
            env={"LANG": "C.UTF-8"},
        )
    found = held(child)
    if found is None:
        raise MachineFailed("cannot start a guest: QEMU exited at once", hint=(directory / LOG).read_text()[-500:])
    process = Vmm(directory, *found, child)
    try:
        process.identity.save(directory / IDENTITY)
    except OSError:
        process.terminate()
        raise
    return process


def adopt(directory: Path) -> Vmm | None:
    """The QEMU that an earlier node left in `directory`, or None when that process is gone.

    One whose identity was never written down, because the node died in between, answers on its monitor and is ended.
    """
    identity = Identity.load(directory / IDENTITY)
    if identity is None:
        _quit_nameless(directory)
        return None
    pidfd = identity.open_pidfd()
    return None if pidfd is None else Vmm(directory, identity, pidfd, None)


def _quit_nameless(directory: Path) -> None:
    with contextlib.suppress(OSError, MachineFailed):
        monitor = Qmp(connect_unix(directory / MONITOR, timeout=10))
        monitor.execute("quit")
        monitor.close()


def kill_orphan(directory: Path) -> None:
    """End the QEMU that somebody who died left in `directory`, if there is one."""
    left = adopt(directory)
    if left is not None:
        left.terminate()


class Vmm(WatchedProcess):
    """A live QEMU process, its sockets and the end of its console."""

    def __init__(self, directory: Path, identity: Identity, pidfd: int, child: subprocess.Popen[bytes] | None) -> None:
        self.directory = directory
        self._console = bytearray()
        self._spoke = threading.Condition()
        self._ended = False
        super().__init__(identity, pidfd, child, at_end=self._hush)
        try:
            begin(self._listen, f"console-{identity.pid}")
        except Capacity:
            self.terminate()
            raise

    def connect_agent(self) -> socket.socket:
        return self._connect(AGENT)

    def connect_monitor(self) -> Qmp:
        return Qmp(self._connect(MONITOR))

    def terminate(self) -> None:
        """SIGKILL and wait: a machine's state is on its disks, never in its process."""
        self.signal(signal.SIGKILL)
        self.wait()

    def wait_console(self, line: re.Pattern[bytes], seconds: float) -> re.Match[bytes]:
        """Wait until the console has said `line`. Raises `MachineFailed` when the machine dies or time is up first."""
        with self._spoke:
            self._spoke.wait_for(lambda: line.search(self._console) or self._ended, seconds)
            found = line.search(bytes(self._console))
        if found is None:
            why = "its machine has exited" if self._ended else f"no sign of life within {seconds:g} s"
            raise MachineFailed(f"cannot boot the guest: {why}")
        return found

    def console_tail(self) -> str:
        """What QEMU and the guest's console said last; printable, at most 2,000 characters, untrusted."""
        with contextlib.suppress(OSError):
            log = (self.directory / LOG).read_bytes()[-1000:]
            text = (log + bytes(self._console[-1000:])).decode("utf-8", "replace")
            return "".join(c if c.isprintable() or c == "\n" else " " for c in text).strip()
        return ""

    def _connect(self, name: str) -> socket.socket:
        try:
            return connect_unix(self.directory / name, timeout=10)
        except OSError as error:
            raise MachineFailed(f"cannot reach the guest: {name}: {error}") from None

    def _listen(self) -> None:
        """Keep the end of the console. It is read so that a chatty guest fills a ring here, not a file on the host."""
        with contextlib.suppress(MachineFailed, OSError), self._connect(CONSOLE) as console:
            while data := console.recv(65536):
                with self._spoke:
                    self._console += data
                    del self._console[:-CONSOLE_BYTES]
                    self._spoke.notify_all()

    def _hush(self) -> None:
        with self._spoke:
            self._ended = True
            self._spoke.notify_all()
