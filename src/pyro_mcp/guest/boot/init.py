"""init: the agent as PID 1 of a guest.

Its death ends the machine, so nothing may end it: every error of the port leads to the next connection, every error of
a verb to an answer. Before serving it prepares all that guests of a kind share and touches every module it will ever
use, since this is the state that a template freezes; `configure` then makes the restored copy a guest of its own.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import threading
import time
from typing import Any, NoReturn

from pyro_mcp.guest import params as read
from pyro_mcp.guest import syscalls
from pyro_mcp.guest.boot import disks, identity
from pyro_mcp.guest.boot.host_time import HostTime
from pyro_mcp.guest.dispatch import Dispatcher, Verb
from pyro_mcp.guest.errors import AgentError
from pyro_mcp.guest.exchange import GuestExchange
from pyro_mcp.guest.exec import run as exec_verb
from pyro_mcp.guest.exec.children import SpawnError, reap_orphans, spawn
from pyro_mcp.guest.exec.command import BASH
from pyro_mcp.guest.exec.jobs import Jobs
from pyro_mcp.guest.exec.secrets import AgentSecrets
from pyro_mcp.guest.net import drivers, forward
from pyro_mcp.guest.net.network import Network
from pyro_mcp.guest.port import Port
from pyro_mcp.guest.services.service_group import ControlGroup
from pyro_mcp.guest.services.services import AgentServices
from pyro_mcp.guest.terminals.shells import AgentShells
from pyro_mcp.guest.tree import workspace
from pyro_mcp.guest.tree.overlay import Overlay
from pyro_mcp.guest.tree.overlay_pack import overlay_pack
from pyro_mcp.guest.tree.paths import WORKSPACE
from pyro_mcp.protocol.channel import Stream

ENVIRONMENT = {
    b"PATH": b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    b"HOME": b"/root",
    b"LANG": b"C.UTF-8",
    b"TERM": b"dumb",
    b"USER": b"root",
    b"LOGNAME": b"root",
    b"SHELL": b"/bin/sh",
}
_STARTS = {"exec", "shell_open", "service_start"}
_READS = {"changes", "file_lines", "file_list", "file_read", "file_search", "overlay_pack", "overlay_save", "tree_pack"}
_ON_WORKSPACE = _STARTS | _READS | {"file_write", "tree_apply", "tree_unpack"}
NOBODY = "vm-" + "0" * 12, "0" * 32
"""Host name and machine id of a guest that is nobody's yet."""
STOP_SECONDS = 0.2


def run() -> NoReturn:
    """Be PID 1. Never returns."""
    try:
        wake = _watch_children()
        drivers.load()
        disks.prepare()
        if disks.has_scratch():
            disks.assemble()
            # Makes the files: after a restore it is quicker to fill them than to copy them up from the image.
            identity.name_host(*NOBODY, log)
            _warm()
        identity.raise_loopback()
        agent = GuestAgent(Port())
        threading.Thread(target=agent.serve_for_ever, name="serve", daemon=True).start()
    except OSError as error:
        # The host waits for this line on the console and reports it.
        log(f"cannot start: {error}")
        os.sync()
        _give_up()
    while True:
        _reap(wake)


class GuestAgent:
    """The verbs of a guest. `exec` is refused until `configure` has given the guest its disks and its identity; `warm`
    goes the same ways before that, with nothing of anybody's."""

    def __init__(self, port: Port) -> None:
        self._port = port
        self._configured: dict[str, Any] | None = None
        self._warmed = False
        self._lock = threading.Lock()
        self._overlay = Overlay()
        self._host_time = HostTime()
        self._secrets = AgentSecrets("/run/pyro/secrets")
        self._environment = dict(ENVIRONMENT)
        self._network = Network(lambda: self._dispatcher.channel, self._environment, log)
        self._jobs = Jobs()
        self._services = AgentServices(self._environment, self._secrets, ControlGroup)
        verbs = {
            "configure": self.configure,
            "exec": self.exec,
            "exec_forget": self._jobs.forget,
            "exec_resume": self._jobs.resume,
            "network_up": self._network_up,
            "overlay_load": self._overlay.load,
            "overlay_pack": self._pack,
            "overlay_save": self._save,
            "secret_put": self._put_secret,
            "set_clock": self.set_clock,
            "shutdown": self.shutdown,
            **AgentShells(self._environment, self._secrets).verbs(
                WORKSPACE, lambda stream: self._require_workspace(stream.verb)
            ),
            "tcp_connect": self._connect,
            "warm": self.warm,
            **self._services.verbs(self._require_workspace),
            **workspace.verbs(self._overlay.tree, self._overlay.layers, self._require_workspace),
        }
        verbs |= {name: self._in_place(verb) for name, verb in verbs.items() if name in _ON_WORKSPACE}
        self._dispatcher = Dispatcher(
            verbs, {"mode": "guest", "kernel": os.uname().release}, GuestExchange(disks.find("exchange"))
        )

    def serve_for_ever(self) -> NoReturn:
        """Serve one host after another. A guest that was warmed and is nobody's when its host goes ends with it."""
        gc.collect()
        gc.freeze()
        log(f"ready after {time.monotonic():.2f} s, clock {identity.clock_source()}")
        backlog = b""
        while True:
            try:
                backlog = self._dispatcher.serve(self._port.next_connection(), backlog)
            except OSError as error:
                log(f"port: {error}")
                time.sleep(0.01)
            if self._warmed and self._configured is None:
                log("nobody came for this guest")
                _give_up()

    def configure(self, stream: Stream) -> dict[str, Any]:
        """time_ns, entropy (base64), hostname, machine_id, token, scratch, workspace? {seed, load} → kernel, boot_id.
        Once in a guest's life.

        Later hellos carry `token`, by which a node that comes back knows this guest from another on the same socket.
        """
        p = stream.params
        time_ns = read.integer(p, "time_ns", min_=0, max_=1 << 62)
        entropy = read.text(p, "entropy")
        hostname = read.text(p, "hostname", limit=63)
        machine_id = read.text(p, "machine_id", limit=32)
        token = read.text(p, "token", limit=128)
        layout = read.optional_object(p, "workspace")
        seed, load = read.flag(layout or {}, "seed"), read.flag(layout or {}, "load")
        with self._lock:
            if self._configured is not None:
                raise AgentError("conflict", "cannot configure: this guest is configured already")
            self._identify(time_ns, entropy, hostname, machine_id, scratch=read.flag(p, "scratch"))
            if layout is not None:
                self._overlay.prepare(seed=seed, load=load)
            disks.keep_spares()
            self._configured = {"kernel": os.uname().release, "boot_id": identity.boot_id()}
            self._dispatcher.introduce(token=token)
            return self._configured

    def set_clock(self, stream: Stream) -> dict[str, Any]:
        """time_ns → {}. For a guest that was stopped for a while."""
        self._host_time.set(read.integer(stream.params, "time_ns", min_=0, max_=1 << 62))
        return {}

    def _identify(self, time_ns: int, entropy: str, hostname: str, machine_id: str, *, scratch: bool) -> None:
        """Give the guest its clock, its randomness, its root and its names."""
        self._host_time.set(time_ns)
        identity.reseed(entropy)
        if scratch:
            disks.assemble()
        identity.name_host(hostname, machine_id, log)

    def warm(self, stream: Stream) -> dict[str, Any]:
        """entropy (base64) and what `exec` takes → what `exec` answers. As often as wanted, until `configure`.

        The entropy comes first, so that nothing that is drawn meanwhile is drawn in another guest too.
        """
        entropy = read.text(stream.params, "entropy")
        with self._lock:
            if self._configured is not None:
                raise AgentError("conflict", "cannot warm: this guest is configured already")
            self._identify(time.time_ns(), entropy, *NOBODY, scratch=True)
            self._warmed = True
        return exec_verb.run(stream, self._environment, b"/", self._secrets, self._jobs)

    def exec(self, stream: Stream) -> dict[str, Any]:
        """One command in the guest; with `time_ns`, the host's clock."""
        if self._configured is None:
            raise AgentError("conflict", "cannot exec: this guest is not configured yet")
        if "time_ns" in stream.params:
            self._host_time.catch_up(read.integer(stream.params, "time_ns", min_=0, max_=1 << 62))
        if self._overlay.waiting:
            self._require_workspace("exec")
        home = WORKSPACE if self._overlay.mounted else b"/root"
        return exec_verb.run(stream, self._environment, home, self._secrets, self._jobs)

    def _in_place(self, verb: Verb) -> Verb:
        """`verb`, refused while it and commands would see different trees; a command may start elsewhere."""

        def checked(stream: Stream) -> dict[str, Any] | None:
            cwd = stream.params.get("cwd") or ""
            start = os.path.join("/workspace", cwd) if isinstance(cwd, str) else ""
            if f"{os.path.normpath(start)}/".startswith("/workspace/"):
                self._overlay.require_in_place(stream.verb)
            return verb(stream)

        return checked

    def _save(self, stream: Stream) -> dict[str, Any]:
        self._require_workspace("overlay_save")
        return self._overlay.save(stream)

    def _pack(self, stream: Stream) -> dict[str, Any]:
        self._require_workspace("overlay_pack")
        return overlay_pack(self._overlay.tree, self._overlay.layers(), stream)

    def _put_secret(self, stream: Stream) -> dict[str, Any]:
        if self._configured is None:
            raise AgentError("conflict", "cannot secret_put: this guest is not configured yet")
        return self._secrets.put(stream)

    def _connect(self, stream: Stream) -> dict[str, Any]:
        if self._configured is None:
            raise AgentError("conflict", "cannot tcp_connect: this guest is not configured yet")
        return forward.tcp_connect(stream)

    def _network_up(self, stream: Stream) -> dict[str, Any]:
        if self._configured is None:
            raise AgentError("conflict", "cannot network_up: this guest is not configured yet")
        return self._network.up(stream)

    def _require_workspace(self, verb: str) -> None:
        if self._overlay.waiting:
            raise AgentError("conflict", f"cannot {verb}: the workspace is still to be loaded")
        if not self._overlay.mounted:
            raise AgentError("conflict", f"cannot {verb}: this guest has no workspace")

    def shutdown(self, stream: Stream) -> None:
        """End every process, write everything to disk, answer, and switch the machine off."""
        self._services.close()
        for number in (signal.SIGTERM, signal.SIGCONT):
            _signal_all(number)
        time.sleep(STOP_SECONDS)
        _signal_all(signal.SIGKILL)
        os.sync()
        stream.result({})
        syscalls.power_off()


def _warm() -> None:
    """Run what nearly every guest runs first, so that it is in memory when the template is frozen."""
    for argv in ([b"/bin/true"], [BASH, b"-c", b":"], [b"/bin/sh", b"-c", b":"]):
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        try:
            spawn(argv, argv[:1], b"/", [], (null, null, null)).reap()
        except SpawnError as error:
            log(f"warm: {argv[0].decode()}: {error}")
        finally:
            os.close(null)
    os.sync()


def log(message: str) -> None:
    """A short line on the console."""
    try:
        os.write(2, f"pyro-agent: {message}\n".encode()[:512])
    except OSError:
        pass


def _watch_children() -> int:
    """SIGCHLD, and every signal a user may send to PID 1, become bytes on a descriptor. Returns its reading end."""
    wake_read, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # A handler and not SIG_IGN: commands would inherit the latter.
        signal.signal(number, lambda _number, _frame: None)
    return wake_read


def _reap(wake: int) -> None:
    """Wait for SIGCHLD, rest so that a command's own answer goes first, then take the orphans."""
    try:
        poll = select.poll()
        poll.register(wake, select.POLLIN)
        poll.poll()
        time.sleep(0.05)
        os.read(wake, 4096)
        while not reap_orphans():
            time.sleep(0.05)
    except OSError as error:
        log(f"reap: {error}")
        time.sleep(1)


def _signal_all(number: int) -> None:
    try:
        os.kill(-1, number)
    except ProcessLookupError:
        pass


def _give_up() -> NoReturn:
    while True:
        try:
            syscalls.power_off()
        except OSError as error:
            log(f"{error}")
        time.sleep(60)
