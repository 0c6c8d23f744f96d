"""A process that may outlive the node: watched until its end, signalled by identity and never by bare pid."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
from collections.abc import Callable

from pyro_mcp.errors import Capacity
from pyro_mcp.system.process import Identity
from pyro_mcp.system.threads import begin


def held(child: subprocess.Popen[bytes]) -> tuple[Identity, int] | None:
    """The identity and a pidfd of a process that was just started; None when it has exited at once.

    Raises `OSError` when it cannot be held, after having ended it.
    """
    try:
        identity = Identity.of(child.pid)
        pidfd = identity.open_pidfd() if identity else None
    except OSError:
        child.kill()
        child.wait()
        raise
    if identity is None or pidfd is None:
        child.wait()
        return None
    return identity, pidfd


class WatchedProcess:
    """Owns `pidfd`. `child` is set when this node is its parent and must reap it.

    `at_end` runs once on the watcher's thread when the process is gone, before anybody learns of it.
    """

    def __init__(
        self,
        identity: Identity,
        pidfd: int,
        child: subprocess.Popen[bytes] | None,
        *,
        at_end: Callable[[], None] = lambda: None,
    ) -> None:
        self.identity = identity
        self._pidfd = pidfd
        self._child = child
        self._at_end = at_end
        self._gone = threading.Event()
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], None]] = []
        try:
            begin(self._watch, f"watch-{identity.pid}")
        except Capacity:
            # Nobody would ever know of it.
            self.signal(signal.SIGKILL)
            self._watch()
            raise

    @property
    def pid(self) -> int:
        return self.identity.pid

    def alive(self) -> bool:
        return not self._gone.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the process is gone; False when `timeout` seconds pass first."""
        return self._gone.wait(timeout)

    def on_exit(self, callback: Callable[[], None]) -> None:
        """Call `callback` once when the process is gone, at once if it is."""
        with self._lock:
            if not self._gone.is_set():
                self._callbacks.append(callback)
                return
        callback()

    def signal(self, number: signal.Signals) -> None:
        """Signal it; one that is gone is left alone."""
        with self._lock, contextlib.suppress(ProcessLookupError):
            if not self._gone.is_set():
                signal.pidfd_send_signal(self._pidfd, number)

    def _watch(self) -> None:
        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)
        poller.poll()
        if self._child is not None:
            self._child.wait()
        try:
            self._at_end()
        finally:
            # Whatever that met with, the process is gone, and nobody may wait for it for ever.
            with self._lock:
                self._gone.set()
                os.close(self._pidfd)
                callbacks = list(self._callbacks)
            for callback in callbacks:
                callback()
