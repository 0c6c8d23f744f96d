"""Client: one connection to the node, shared by every thread of a process.

The node is started on demand. When it goes away in the middle of a request, the answer is `NodeUnavailable`, and a new
node is asked for at once, because its first act is to end what the old one left behind.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyro_mcp.errors import Cancelled, Conflict, InvalidArgument, NodeUnavailable, ProtocolError, PyroError
from pyro_mcp.operations.call import Call
from pyro_mcp.protocol.channel import Channel, ChannelClosed, Data, Event, RemoteError, Stream, StreamResult
from pyro_mcp.protocol.pipe import Pipe
from pyro_mcp.surfaces.feeder import Feeder, Source
from pyro_mcp.version import VERSION

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from pyro_mcp.operations.operation import Operation
    from pyro_mcp.settings import Settings

HELLO_SECONDS = 10.0
CANCEL_SECONDS = 5.0
STALE_SECONDS = 5.0
DYING_TRIES = 5


def noop(*_: Any) -> None:
    """The default callback: does nothing."""


@dataclass(frozen=True, slots=True)
class Callbacks:
    """Callbacks for what happens before the answer. Called on the thread that waits for it."""

    progress: Callable[[str, float | None], None] = noop
    notice: Callable[[str], None] = noop
    output: Callable[[int, bytes], None] = noop
    position: Callable[[int], None] = noop


class Client:
    """The way to the node of one state directory. Every method may be called from any thread."""

    def __init__(self, settings: Settings, connect: Callable[[Settings], socket.socket] | None = None) -> None:
        """`connect` finds or starts the node; left out, `pyro_mcp.node.spawn.ensure_node` does."""
        self._settings = settings
        self._connect = connect
        self._lock = threading.Lock()
        self._channel: Channel | None = None
        self._closed = False
        self._used = 0.0

    @property
    def settings(self) -> Settings:
        return self._settings

    def call(
        self,
        operation: Operation[Any, Any],
        params: dict[str, Any],
        inputs: dict[str, Any] | None = None,
        callbacks: Callbacks | None = None,
    ) -> dict[str, Any]:
        """Run `operation` and return its encoded result. Raises `PyroError`; a `KeyboardInterrupt` ends the command."""
        if operation.local:
            from pyro_mcp.engine.diagnosis import Diagnosis

            return operation.answer(Call(Diagnosis(self._settings), self._settings), params)
        return self.begin(operation.name, params, inputs).wait(callbacks or Callbacks())

    def begin(self, verb: str, params: dict[str, Any], inputs: dict[str, Any] | None = None) -> Request:
        """Send a request without waiting for its answer. Raises `PyroError`."""
        try:
            stream = self._open(verb, params)
        except ValueError as error:
            raise InvalidArgument(f"cannot call {verb}: {error}", hint="Pass large data through a file.") from None
        request = Request(self, stream)
        for source in (inputs or {}).values():
            request.feed(source)
        return request

    def close(self) -> None:
        """End the connection; requests under way are cancelled by it."""
        with self._lock:
            self._closed = True
            if self._channel is not None:
                self._channel.close("the client is done")
                self._channel = None

    def reconcile(self) -> None:
        """After the node was lost: have a new one look at what is left. Its own failure is not the caller's news."""
        with contextlib.suppress(PyroError, OSError):
            self._connected()

    def _open(self, verb: str, params: dict[str, Any]) -> Stream:
        # A node that goes idle closes its connections, so the first failure may only mean that it has left.
        for attempt in (1, 2):
            channel = self._connected()
            if params.get("host_ca"):
                _require_bundle(channel, self._settings)
            try:
                return channel.open(verb, params)
            except ChannelClosed as error:
                if attempt == 2:
                    raise _lost(verb, str(error), self._settings) from None
        raise AssertionError("unreachable")

    def _connected(self) -> Channel:
        with self._lock:
            if self._closed:
                raise NodeUnavailable("cannot reach the node: this Pyro is closed", hint="Make a new Pyro().")
            if self._channel is None or self._channel.closed or self._went_silent(self._channel):
                self._channel = self._introduced()
            self._used = time.monotonic()
            return self._channel

    def _introduced(self) -> Channel:
        """A new connection. A node that hangs up on the first word may have died just now: the next one answers."""
        connect = self._connect or _ensure_node
        try:
            return open_channel(connect(self._settings))
        except ProtocolError:
            return open_channel(connect(self._settings))

    def _went_silent(self, channel: Channel) -> bool:
        """Whether a connection unused for a while leads nowhere. Asked before a request is sent, because one that was
        sent into a closing connection may or may not have arrived, and must not be sent twice."""
        if time.monotonic() - self._used < STALE_SECONDS:
            return False
        try:
            channel.ping()
        except (ChannelClosed, TimeoutError):
            channel.close("it went silent")
            return True
        return False


class Request:
    """One request under way."""

    def __init__(self, client: Client, stream: Stream) -> None:
        self._client = client
        self._stream = stream
        self._feeder: Feeder | None = None

    def feed(self, source: Source) -> None:
        """Send `source` as the command's input, on a thread of its own, and then its end."""
        self._feeder = Feeder(self._stream, source)

    def cancel(self) -> None:
        """Ask the node to stop. `wait` still returns, with the answer or with `Cancelled`."""
        self._stream.cancel()

    def wait(self, callbacks: Callbacks) -> dict[str, Any]:
        """The encoded result. Raises `PyroError`, also where the input did not come to its end; a `KeyboardInterrupt`
        is passed on once the command has ended."""
        try:
            return self._collect(callbacks, None)
        except BaseException as error:
            if isinstance(error, Cancelled) and self._feeder is not None and self._feeder.error is not None:
                raise self._feeder.error from self._feeder.error.__cause__
            if not isinstance(error, PyroError):
                self._abandon()
            raise

    def _collect(self, callbacks: Callbacks, timeout: float | None) -> dict[str, Any]:
        try:
            while True:
                message = self._stream.receive(timeout)
                if isinstance(message, StreamResult):
                    return message.value
                if isinstance(message, Data):
                    callbacks.output(message.tag, bytes(message.data))
                elif isinstance(message, Event):
                    _emit_event(callbacks, message.value)
        except RemoteError as error:
            raise PyroError.from_wire(error.payload) from None
        except ChannelClosed as error:
            self._client.reconcile()
            raise _lost(self._stream.verb, str(error), self._client.settings) from None

    def _abandon(self) -> None:
        """Cancel, and wait a little for the answer, so that the command is dead when the caller goes on."""
        self._stream.cancel()
        with contextlib.suppress(PyroError, TimeoutError):
            self._collect(Callbacks(), CANCEL_SECONDS)


def _require_bundle(channel: Channel, settings: Settings) -> None:
    """Raises `Conflict` when the node hands on other certificates than those that somebody named here, perhaps for all
    programs (SSL_CERT_FILE): that is no wish for a node of one's own until it matters."""
    theirs = channel.peer.get("ca_file")
    if settings.ca_named and theirs is not None and os.path.realpath(str(theirs)) != os.path.realpath(settings.ca_file):
        raise Conflict(
            f"cannot hand on {settings.ca_file}: the node was started with ca_file {theirs}",
            hint="Set SSL_CERT_FILE to that, or end the node with `pyro node stop`; the next command starts a new one",
        )


def _ensure_node(settings: Settings) -> socket.socket:
    from pyro_mcp.node.spawn import ensure_node

    return ensure_node(settings)


def open_channel(connection: socket.socket) -> Channel:
    """A started channel over a connected socket. Raises `NodeUnavailable` or `ProtocolError`."""
    from pyro_mcp.node.paths import MAX_CONTROL

    hello = {"pyro": VERSION, "role": "client"}
    channel = Channel(Pipe(connection.detach()), initiator=True, hello=hello, max_control=MAX_CONTROL)
    try:
        channel.start(HELLO_SECONDS)
    except TimeoutError as error:
        raise NodeUnavailable(f"cannot reach the node: {error}", hint="Look at `pyro node status`.") from None
    except ChannelClosed as error:
        raise ProtocolError(
            f"cannot talk to the node: {error}", hint="Run `pyro node stop`; the next command starts a new one."
        ) from None
    return channel


def call_running_node(settings: Settings, verb: str, params: dict[str, Any] | None = None) -> dict[str, Any] | None:
    """The answer of the node that runs to one of its own verbs; None when none runs. Never starts one."""
    from pyro_mcp.node.spawn import connect_node

    channel = None
    # A node that was just killed may still take a connection, and close it.
    for attempt in range(DYING_TRIES):
        connection = connect_node(settings)
        if connection is None:
            return None
        try:
            channel = open_channel(connection)
            break
        except ProtocolError:
            if attempt == DYING_TRIES - 1:
                raise
    assert channel is not None
    try:
        return channel.call(verb, params, 60.0)
    except RemoteError as error:
        raise PyroError.from_wire(error.payload) from None
    except (ChannelClosed, TimeoutError) as error:
        raise NodeUnavailable(
            f"cannot {verb.replace('_', ' ')}: {error}", hint=f"Look at its log, {_log(settings)}."
        ) from None
    finally:
        channel.close("asked and answered")


def _emit_event(callbacks: Callbacks, event: dict[str, Any]) -> None:
    if "progress" in event:
        fraction = event.get("fraction")
        share = min(max(float(fraction), 0.0), 1.0) if isinstance(fraction, int | float) else None
        callbacks.progress(str(event["progress"]), share)
    elif "notice" in event:
        callbacks.notice(str(event["notice"]))
    elif isinstance(cursor := event.get("cursor"), int):
        callbacks.position(cursor)


def _lost(verb: str, reason: str, settings: Settings) -> NodeUnavailable:
    return NodeUnavailable(
        f"cannot finish {verb}: the connection to the node was lost ({reason})",
        hint="The node was killed or crashed. Workspaces are kept, a machine for one command is not. Run it again, or"
        f" look at {_log(settings)}.",
    )


def _log(settings: Settings) -> Path:
    from pyro_mcp.node.paths import NodePaths

    return NodePaths.of(settings).log
