"""The node: accepts clients, answers their calls, and leaves when nothing needs it.

The main thread only accepts and waits for the idle deadline; each client has a `Channel`, each call a pool thread of
it. What a client leaves behind when it vanishes is cancelled call by call.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from pyro_mcp.engine.engine import Engine
from pyro_mcp.errors import NodeUnavailable, PyroError
from pyro_mcp.node import calls
from pyro_mcp.node.paths import MAX_CONTROL, About, NodePaths, peer
from pyro_mcp.node.reap import Reaper
from pyro_mcp.node.verbs import operations
from pyro_mcp.operations.operation import find
from pyro_mcp.protocol.channel import Channel, ChannelClosed, Stream
from pyro_mcp.protocol.pipe import Pipe
from pyro_mcp.settings import Settings
from pyro_mcp.system.locks import try_locked
from pyro_mcp.system.sockets import listen_unix
from pyro_mcp.version import VERSION

_log = logging.getLogger(__name__)

HELLO_SECONDS = 10.0
BACKLOG = 1024
MAX_CLIENTS = 128
DRAIN_SECONDS = 10.0
FAREWELL_SECONDS = 2.0
REST_SECONDS = 0.1

Verbs = Mapping[str, Callable[["Node", Mapping[str, Any]], dict[str, Any]]]


class Node:
    """One process's node. `listen`, then `run` until `leave`. `verbs` are its own, beside the engine's operations."""

    def __init__(self, settings: Settings, paths: NodePaths, engine: Engine, verbs: Verbs) -> None:
        self.settings = settings
        self.paths = paths
        self.engine = engine
        self._verbs = verbs
        self.started_at = time.time()
        self._clients: set[Channel] = set()
        self._calls = 0
        self._changed = threading.Condition()
        self._idle_since = time.monotonic()
        self._leaving: str | None = None
        self._hidden = False
        self._exhausted = False
        self._serving = threading.Event()
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._listener: socket.socket | None = None
        self._reaper = Reaper(engine)
        engine.on_change(self._wake)

    # -- life

    def listen(self) -> None:
        """Say who this is and open the socket. Holding `node.lock` is the caller's business."""
        About(os.getpid(), VERSION, sys.executable, self.settings.values()).save(self.paths)
        self._listener = listen_unix(self.paths.socket_path, backlog=BACKLOG)
        self._listener.setblocking(False)

    def run(self) -> None:
        """Answer until `leave` or until idle for long enough; then close everything."""
        assert self._listener is not None
        poller = select.poll()
        poller.register(self._wake_read, select.POLLIN)
        poller.register(self._listener, select.POLLIN)
        while True:
            if self._leaving is not None:
                break
            remaining = self._idle_remaining()
            if remaining is not None and remaining <= 0:
                # Before it may be closed: its number can be another descriptor's afterwards.
                poller.unregister(self._listener)
                if self._retire():
                    break
                poller.register(self._listener, select.POLLIN)
                continue
            poller.poll(None if remaining is None else remaining * 1000 + 1)
            self._drain_wake()
            self._accept_all()
        self._shut(self._leaving or f"idle for {self.settings.idle_seconds:g} s")

    def serve(self) -> None:
        """All that was left is taken over: from now on every call is answered, not only `node_status`."""
        self._reaper.start()
        self._serving.set()
        self._wake()

    def leave(self, reason: str) -> None:
        """Make `run` return soon. Safe from any thread and from a signal handler."""
        self._leaving = reason
        self._wake()

    def hide(self) -> None:
        """Be found by no new client: whoever comes now starts the next node, which waits until this one is gone."""
        self._hidden = True
        self.paths.socket_path.unlink(missing_ok=True)

    @property
    def client_count(self) -> int:
        return len(self._clients)

    @property
    def call_count(self) -> int:
        """The calls under way, whoever asks included."""
        return self._calls

    # -- idleness

    def _idle_remaining(self) -> float | None:
        """Seconds until this node may leave; None while somebody needs it."""
        with self._changed:
            if self._clients or not self._serving.is_set() or self.engine.busy:
                self._idle_since = time.monotonic()
                return None
            return self._idle_since + self.settings.idle_seconds - time.monotonic()

    def _retire(self) -> bool:
        """Stop listening unless somebody is just arriving. Under `start.lock`: nobody starts a node meanwhile."""
        assert self._listener is not None
        with try_locked(self.paths.start_lock) as free:
            if free:
                self.paths.socket_path.unlink(missing_ok=True)
                # Whoever connected before the unlink is in the queue by now, and nobody can follow.
                if not self._accept_all():
                    self._listener.close()
                    self.paths.about.unlink(missing_ok=True)
                    return True
                self._listener.close()
                self.listen()
        with self._changed:
            self._idle_since = time.monotonic()
        return False

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):
            os.write(self._wake_write, b"x")

    def _drain_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._wake_read, 4096):
                pass

    # -- clients

    def _accept_all(self) -> int:
        """Greet whoever waits; returns how many did."""
        assert self._listener is not None
        count = 0
        try:
            while True:
                connection, _ = self._listener.accept()
                count += 1
                self._admit(connection)
        except (BlockingIOError, ConnectionAbortedError):
            self._exhausted = False
        except (OSError, RuntimeError) as error:
            # No descriptor or no thread is left. Whoever waits is greeted once others have gone.
            if not self._exhausted:
                _log.warning(f"cannot take another client: {error}")
            self._exhausted = True
            time.sleep(REST_SECONDS)
        return count

    def _admit(self, connection: socket.socket) -> None:
        pid, uid = peer(connection)
        if uid != os.geteuid() or len(self._clients) >= MAX_CLIENTS:
            connection.close()
            return
        channel = Channel(
            Pipe(connection.detach()),
            initiator=False,
            hello={"pyro": VERSION, "role": "node", "pid": os.getpid(), "ca_file": str(self.settings.ca_file)},
            handler=lambda stream: self._handle(stream, pid),
            max_control=MAX_CONTROL,
        )
        with self._changed:
            self._clients.add(channel)
        channel.on_close(lambda reason: self._gone(channel))
        try:
            threading.Thread(target=self._greet, args=(channel,), name="greet", daemon=True).start()
        except RuntimeError:
            channel.close("there is no thread to serve it")
            raise

    def _greet(self, channel: Channel) -> None:
        with contextlib.suppress(ChannelClosed, TimeoutError):
            channel.start(HELLO_SECONDS)

    def _gone(self, channel: Channel) -> None:
        with self._changed:
            self._clients.discard(channel)
            self._idle_since = time.monotonic()
        self._wake()

    def _handle(self, stream: Stream, pid: int) -> None:
        with self._changed:
            self._calls += 1
        try:
            if stream.verb != "node_status":
                self._wait_serving()
            if stream.verb in self._verbs:
                try:
                    stream.result(self._verbs[stream.verb](self, stream.params))
                finally:
                    # Also when whoever asked has gone meanwhile: nobody can find it any more, nor ask again.
                    if self._hidden:
                        self.leave(f"process {pid} asked it to")
            else:
                calls.answer(stream, find(operations(), stream.verb), self.engine, self.settings)
        finally:
            with self._changed:
                self._calls -= 1
                self._changed.notify_all()

    def _wait_serving(self) -> None:
        if not self._serving.is_set():
            self._serving.wait()
            if self._leaving is not None:
                raise NodeUnavailable(f"cannot answer: the node is leaving: {self._leaving}", hint="Try again")

    # -- the end

    def _shut(self, reason: str) -> None:
        """Cancel what is under way, give it time to clean up, and release everything."""
        _log.info(f"leaving: {reason}")
        assert self._listener is not None
        if self._listener.fileno() >= 0:
            self.hide()
            self._listener.close()
            self.paths.about.unlink(missing_ok=True)
        self._hang_up(reason)
        served = self._serving.is_set()
        self._serving.set()
        with self._changed:
            self._changed.wait_for(lambda: self._calls == 0, DRAIN_SECONDS)
        if served:
            self._reaper.stop()
        try:
            self.engine.close()
        except PyroError as error:
            _log.warning(f"cannot close cleanly: {error}")

    def _hang_up(self, reason: str) -> None:
        """Tell every client, and wait no longer than a moment for one that does not listen."""
        told = NodeUnavailable(
            f"cannot finish the request: the node was stopped: {reason}",
            hint=f"Workspaces are kept, and the next command starts a node. {self.paths.log} tells what happened.",
        ).to_wire()
        farewells = [
            threading.Thread(target=channel.close, args=(reason, told), name="farewell", daemon=True)
            for channel in list(self._clients)
        ]
        for farewell in farewells:
            farewell.start()
        deadline = time.monotonic() + FAREWELL_SECONDS
        for farewell in farewells:
            farewell.join(max(0.0, deadline - time.monotonic()))
