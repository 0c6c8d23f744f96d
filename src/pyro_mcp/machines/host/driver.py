"""The host driver: the same agent as a plain child process, in a plain directory. No isolation whatsoever.

Only ever used by explicit choice (`host_compat`). The agent outlives the node, in a session of its own, and a
later node finds it by its identity. What its commands leave behind dies with it: the agent is their reaper and
kills them on SIGTERM; should it have been killed itself, they are found by a tag in their environment.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from pyro_mcp.errors import MachineFailed
from pyro_mcp.machines.driver import Capabilities, MachineSpec, NetworkLink, Preparer
from pyro_mcp.machines.host.leftovers import RUN_TAG, kill_tagged
from pyro_mcp.machines.watched import WatchedProcess, held
from pyro_mcp.protocol.channel import Channel, ChannelClosed
from pyro_mcp.protocol.pipe import Pipe
from pyro_mcp.system.process import Identity
from pyro_mcp.system.progress import Progress
from pyro_mcp.system.sockets import connect_unix, listen_unix

AGENT, IDENTITY, LOG, ROOT = "agent.sock", "agent.json", "agent.log", "root"
ANSWER_SECONDS = 20.0
STOP_SECONDS = 5.0
_SOURCE = Path(__file__).resolve().parents[3]
_START = "import sys; sys.path.insert(0, sys.argv.pop(1)); from pyro_mcp.guest.main import main; sys.exit(main())"


class HostDriver:
    """Makes machines that are no machines: commands run as this user, on this host."""

    name = "host"
    preparer: Preparer | None = None
    capabilities = Capabilities(
        isolation="none",
        execution_mode="host_compat",
        own_kernel=False,
        restores=False,
        memory_bound=False,
        overlay=False,
        network=False,
    )

    def launch(self, spec: MachineSpec, progress: Progress) -> HostMachine:
        """An agent that serves `spec.directory`/root. Raises `MachineFailed` and `OSError`."""
        child = _spawn(spec.directory, spec.machine_id, spec.seed)
        found = held(child)
        if found is None:
            raise MachineFailed("cannot start the agent: it exited at once", hint=_tail(spec.directory / LOG))
        identity, pidfd = found
        process = _watched(spec.machine_id, identity, pidfd, child)
        try:
            identity.save(spec.directory / IDENTITY)
            return HostMachine(spec.machine_id, spec.directory, process, _greet(spec.directory, identity.pid))
        except MachineFailed as error:
            _terminate(process)
            raise MachineFailed(error.message, hint=_tail(spec.directory / LOG) or None) from None
        except BaseException:
            _terminate(process)
            raise

    def adopt(self, machine_id: str, directory: Path, network: NetworkLink | None = None) -> HostMachine | None:
        """The agent that an earlier node left, reconnected; when it is gone, so is what it had started."""
        identity = Identity.load(directory / IDENTITY)
        pidfd = identity.open_pidfd() if identity else None
        if identity is None or pidfd is None:
            # The node may have died between the start and the record of it: stop whatever listens there.
            _stop_nameless(directory)
            kill_tagged(machine_id)
            return None
        process = _watched(machine_id, identity, pidfd, None)
        try:
            return HostMachine(machine_id, directory, process, _greet(directory, identity.pid))
        except MachineFailed:
            _terminate(process)
            return None


class HostMachine:
    """A live agent on the host, and the channel to it."""

    capabilities = HostDriver.capabilities

    def __init__(self, machine_id: str, directory: Path, process: WatchedProcess, channel: Channel) -> None:
        self.machine_id = machine_id
        self.channel = channel
        self._directory = directory
        self._process = process
        process.on_exit(lambda: channel.close("the agent on the host has exited"))

    @property
    def pid(self) -> int:
        return self._process.pid

    def alive(self) -> bool:
        return self._process.alive()

    def on_exit(self, callback: Callable[[], None]) -> None:
        self._process.on_exit(callback)

    def terminate(self) -> None:
        _terminate(self._process)

    def console_tail(self) -> str:
        return _tail(self._directory / LOG)


def _watched(machine_id: str, identity: Identity, pidfd: int, child: subprocess.Popen[bytes] | None) -> WatchedProcess:
    return WatchedProcess(identity, pidfd, child, at_end=lambda: kill_tagged(machine_id))


def _terminate(process: WatchedProcess) -> None:
    """Ask the agent to end its commands and itself; kill what does not."""
    process.signal(signal.SIGTERM)
    if not process.wait(STOP_SECONDS):
        process.signal(signal.SIGKILL)
    process.wait()


def _spawn(directory: Path, machine_id: str, baseline: Path | None) -> subprocess.Popen[bytes]:
    """The agent, listening before it runs, with nothing of this process's environment."""
    root = directory / ROOT
    root.mkdir(mode=0o700, exist_ok=True)
    with listen_unix(directory / AGENT) as listener, (directory / LOG).open("wb") as log:
        options = ["--listener", str(listener.fileno()), "--root", str(root), "--mark", machine_id]
        options += [] if baseline is None else ["--baseline", str(baseline)]
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _START, str(_SOURCE), *options],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[listener.fileno()],
            cwd=root,
            start_new_session=True,
            env={"LANG": "C.UTF-8", RUN_TAG: machine_id},
        )


def _greet(directory: Path, pid: int) -> Channel:
    try:
        connection = connect_unix(directory / AGENT, timeout=ANSWER_SECONDS)
        channel = Channel(Pipe(connection.detach()), initiator=True, hello={"role": "node"})
        hello = channel.start(ANSWER_SECONDS)
    except (OSError, ChannelClosed, TimeoutError) as error:
        raise MachineFailed(f"cannot reach the agent on the host: {error}") from None
    if hello.get("pid") != pid:
        channel.close()
        raise MachineFailed("cannot reach the agent on the host: another process answers in its place")
    return channel


def _stop_nameless(directory: Path) -> None:
    with contextlib.suppress(OSError, ChannelClosed, TimeoutError):
        connection = connect_unix(directory / AGENT, timeout=STOP_SECONDS)
        channel = Channel(Pipe(connection.detach()), initiator=True, hello={"role": "node"})
        channel.start(STOP_SECONDS)
        channel.call("shutdown", timeout=STOP_SECONDS)
        channel.close()


def _tail(path: Path) -> str:
    """The printable end of a log, at most 2,000 characters."""
    with contextlib.suppress(OSError):
        text = path.read_bytes()[-2000:].decode("utf-8", "replace")
        return "".join(c if c.isprintable() or c == "\n" else " " for c in text).strip()
    return ""
