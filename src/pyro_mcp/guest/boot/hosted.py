"""The agent on the host, for `host_compat`: the same verbs, no isolation.

Commands get a small environment made here, never the caller's, whose variables hold credentials. The agent is a
subreaper, so that whatever a command leaves behind stays its descendant and dies with it.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
import time
from typing import Any

from pyro_mcp.guest.dispatch import Dispatcher
from pyro_mcp.guest.exec import run as exec_verb
from pyro_mcp.guest.exec.children import descendants, reap_orphans
from pyro_mcp.guest.exec.jobs import Jobs
from pyro_mcp.guest.exec.secrets import AgentSecrets
from pyro_mcp.guest.net import forward
from pyro_mcp.guest.services.service_group import TaggedGroup
from pyro_mcp.guest.services.services import AgentServices
from pyro_mcp.guest.syscalls import become_subreaper
from pyro_mcp.guest.terminals.shells import AgentShells
from pyro_mcp.guest.tree import workspace
from pyro_mcp.guest.tree.fsync_policy import KernelSync
from pyro_mcp.guest.tree.layers import Layers
from pyro_mcp.guest.tree.paths import WORKSPACE, Tree
from pyro_mcp.guest.tree.transaction import recover
from pyro_mcp.protocol.channel import Stream
from pyro_mcp.protocol.pipe import Pipe

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class HostedAgent:
    """Serves commands that start in `root`, which stands for /workspace; `run_tag` is put into their environment as
    `PYRO_MACHINE`, and `baseline` is the directory that `changes` compares with. What an agent that died in the middle
    of a change has left in `root` is taken back."""

    def __init__(self, root: str, run_tag: str, baseline: str | None = None, disk: KernelSync | None = None) -> None:
        self._root = os.fsencode(root)
        tree = Tree(self._root, disk)
        recover(tree)
        self._baseline = None if baseline is None else os.fsencode(baseline)
        self._secrets = AgentSecrets()
        self._jobs = Jobs()
        variables = {"PATH": PATH, "HOME": root, "LANG": "C.UTF-8", "TERM": "dumb", "SHELL": "/bin/sh"}
        if run_tag:
            variables["PYRO_MACHINE"] = run_tag
        self._defaults = {os.fsencode(name): os.fsencode(value) for name, value in variables.items()}
        self._services = AgentServices(self._defaults, self._secrets, TaggedGroup, self._real)
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        verbs = {
            "exec": self._exec,
            "exec_forget": self._jobs.forget,
            "exec_resume": self._jobs.resume,
            "secret_put": self._secrets.put,
            "shutdown": self._shutdown,
            # Without a history file, which would lie in the workspace.
            **AgentShells({**self._defaults, b"HISTFILE": b""}, self._secrets).verbs(self._root, self._place),
            "tcp_connect": forward.tcp_connect,
            **self._services.verbs(lambda _: None),
            **workspace.verbs(tree, self._layers, lambda _: None),
        }
        self._dispatcher = Dispatcher(verbs, {"mode": "host", "pid": os.getpid()})

    def serve_fd(self, fd: int) -> int:
        """Serve the one connection on `fd`, then leave nothing running."""
        os.set_inheritable(fd, False)
        become_subreaper()
        self._watch_signals()
        threading.Thread(target=self._serve_once, args=(Pipe(fd),), daemon=True).start()
        return self._reap_until_told()

    def listen(self, path: str) -> int:
        """Serve on a new Unix socket at `path`, which is gone afterwards."""
        code = self.serve_listener(_bind(path))
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        return code

    def serve_listener(self, listener: socket.socket) -> int:
        """Serve connections, one at a time, until `shutdown` or a signal; then leave nothing running."""
        become_subreaper()
        self._watch_signals()
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return self._reap_until_told()

    # -- verbs

    def _exec(self, stream: Stream) -> dict[str, Any]:
        self._place(stream)
        return exec_verb.run(stream, self._defaults, self._root, self._secrets, self._jobs)

    def _real(self, path: str) -> bytes:
        """Where `path` lies on this host, if it is one under /workspace."""
        raw = os.fsencode(path)
        inside = raw == WORKSPACE or raw.startswith(WORKSPACE + b"/")
        return self._root + raw[len(WORKSPACE) :] if inside else raw

    def _place(self, stream: Stream) -> None:
        """Let the directory that a request names as /workspace be where it stands here."""
        cwd = stream.params.get("cwd")
        if isinstance(cwd, str) and (cwd == "/workspace" or cwd.startswith("/workspace/")):
            stream.params["cwd"] = os.fsdecode(self._root) + cwd.removeprefix("/workspace")

    def _layers(self) -> Layers:
        """Whole trees."""
        return Layers(lambda: _open(self._root), self._open_baseline)

    def _open_baseline(self) -> int | None:
        return None if self._baseline is None else _open(self._baseline)

    def _shutdown(self, stream: Stream) -> None:
        self._services.close()
        stream.result({})
        self._stop()

    # -- life

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                self._stop()
                return
            self._dispatcher.serve(Pipe(connection.detach()))

    def _serve_once(self, pipe: Pipe) -> None:
        self._dispatcher.serve(pipe)
        self._stop()

    def _stop(self) -> None:
        os.write(self._wake_write, bytes((signal.SIGTERM,)))

    def _watch_signals(self) -> None:
        """Signals arrive as bytes on the wake pipe, beside the agent's own request to stop. What the agent inherited as
        ignored or blocked, its commands must not inherit."""
        for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:
            if signal.getsignal(number) is signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda _number, _frame: None)

    def _reap_until_told(self) -> int:
        poll = select.poll()
        poll.register(self._wake_read, select.POLLIN)
        again = False
        while True:
            poll.poll(100 if again else None)
            try:
                signals = os.read(self._wake_read, 4096)
            except BlockingIOError:
                signals = b""
            if signal.SIGTERM in signals or signal.SIGINT in signals:
                break
            again = not reap_orphans()
        _kill_descendants()
        return 0


def inherited_listener(fd: int) -> socket.socket:
    """The listening socket that the parent left open as `fd`."""
    os.set_inheritable(fd, False)
    return socket.socket(fileno=fd)


def _open(path: bytes) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _bind(path: str) -> socket.socket:
    """A listening socket at a path of any length: the kernel takes 107 bytes, so go through the directory."""
    directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(f"/proc/self/fd/{directory}/{os.path.basename(path)}")
    finally:
        os.close(directory)
    os.chmod(path, 0o600)
    listener.listen(8)
    return listener


def _kill_descendants() -> None:
    """Kill all that ever came from here. Repeated, because a process may fork between the look and the kill."""
    for _ in range(100):
        found = descendants(os.getpid())
        if not found:
            return
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.002)
        reap_orphans()
