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

from pyro_mcp.guest import disks, forward, identity, syscalls, workspace
from pyro_mcp.guest import exec as exec_verb
from pyro_mcp.guest import params as read
from pyro_mcp.guest.children import SpawnError, reap_orphans, spawn
from pyro_mcp.guest.dispatch import Dispatcher
from pyro_mcp.guest.errors import AgentError
from pyro_mcp.guest.jobs import Jobs
from pyro_mcp.guest.net import drivers
from pyro_mcp.guest.net.network import Network
from pyro_mcp.guest.overlay import Overlay
from pyro_mcp.guest.overlay_pack import overlay_pack
from pyro_mcp.guest.paths import WORKSPACE
from pyro_mcp.guest.port import Port
from pyro_mcp.guest.secrets import Secrets
from pyro_mcp.guest.service_group import ControlGroup
from pyro_mcp.guest.services import Services
from pyro_mcp.guest.shells import Shells
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
            identity.name_host("vm-" + "0" * 12, "0" * 32, log)
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
    """The verbs of a guest. `exec` is refused until `configure` has given the guest its disks and its identity."""

    def __init__(self, port: Port) -> None:
        self._port = port
        self._configured: dict[str, Any] | None = None
        self._lock = threading.Lock()
        self._overlay = Overlay()
        self._secrets = Secrets("/run/pyro/secrets")
        self._environment = dict(ENVIRONMENT)
        self._network = Network(lambda: self._dispatcher.channel, self._environment, log)
        self._jobs = Jobs()
        self._services = Services(self._environment, self._secrets, ControlGroup)
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
            "shutdown": self.shutdown,
            **Shells(self._environment, self._secrets).verbs(
                WORKSPACE, lambda stream: self._require_workspace(stream.verb)
            ),
            "tcp_connect": self._connect,
            **self._services.verbs(self._require_workspace),
            **workspace.verbs(self._overlay.tree, self._overlay.layers, self._require_workspace),
        }
        self._dispatcher = Dispatcher(verbs, {"mode": "guest", "kernel": os.uname().release})

    def serve_for_ever(self) -> NoReturn:
        """Serve one host after another."""
        gc.collect()
        gc.freeze()
        log(f"ready after {time.monotonic():.2f} s")
        backlog = b""
        while True:
            try:
                backlog = self._dispatcher.serve(self._port.next_connection(), backlog)
            except OSError as error:
                log(f"port: {error}")
                time.sleep(0.01)

    def configure(self, stream: Stream) -> dict[str, Any]:
        """time_ns, entropy (base64), hostname, machine_id, token, scratch, workspace? {seed, load} → kernel, boot_id.
        Once in a guest's life.

        Later hellos carry `token`, by which a node that comes back knows this guest from another on the same socket.
        """
        p = stream.params
        time_ns = read.integer(p, "time_ns", least=0, most=1 << 62)
        entropy = read.text(p, "entropy")
        hostname = read.text(p, "hostname", limit=63)
        machine_id = read.text(p, "machine_id", limit=32)
        token = read.text(p, "token", limit=128)
        layout = read.optional_object(p, "workspace")
        seed, load = read.flag(layout or {}, "seed"), read.flag(layout or {}, "load")
        with self._lock:
            if self._configured is not None:
                raise AgentError("conflict", "cannot configure: this guest is configured already")
            identity.step_clock(time_ns)
            identity.reseed(entropy)
            if read.flag(p, "scratch"):
                disks.assemble()
            identity.name_host(hostname, machine_id, log)
            if layout is not None:
                self._overlay.prepare(seed=seed, load=load)
            disks.keep_spares()
            self._configured = {"kernel": os.uname().release, "boot_id": identity.boot_id()}
            self._dispatcher.introduce(token=token)
            return self._configured

    def exec(self, stream: Stream) -> dict[str, Any]:
        """One command in the guest."""
        if self._configured is None:
            raise AgentError("conflict", "cannot exec: this guest is not configured yet")
        if self._overlay.waiting:
            self._require_workspace("exec")
        home = WORKSPACE if self._overlay.mounted else b"/root"
        return exec_verb.run(stream, self._environment, home, self._secrets, self._jobs)

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
    for argv in ([b"/bin/true"], [b"/bin/sh", b"-c", b":"]):
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
