"""Publish: ports of this host whose connections are forwarded over streams.

A `Publisher` listens and joins every accepted connection with a stream that the caller's `open_stream` gives; it knows
no machine. All listening is done by one thread, each connection has one of its own, and both stay within fixed
numbers: what comes beyond waits in the kernel's backlog until a connection ends. `close`, of one listener or of all,
returns when nothing is left: no port, no thread, no descriptor.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import select
import socket
import threading
from collections.abc import Callable, Iterable

from pyro_mcp.errors import Capacity, Conflict, InvalidArgument, PermissionDenied, PyroError
from pyro_mcp.protocol.relay import Ending, Relay, close_socket
from pyro_mcp.protocol.stream import ChannelClosed, Stream
from pyro_mcp.protocol.wake import Wake
from pyro_mcp.system.atomic import MAKE_ROOM
from pyro_mcp.system.threads import begin

LOOPBACK = "127.0.0.1"
LISTENER_CONNECTIONS = 128
CONNECTIONS = 192
"""Of all listeners together, so that requests still find room among the 256 streams of a machine's channel."""
HALF_OPEN_SECONDS = 900.0
BACKLOG = 128
RETRY_MS = 200
_KEEP_ALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

OpenStream = Callable[[], Stream]
"""Asks for a connection: `lambda: channel.open("tcp_connect", {...})`. Called on the connection's thread; it may raise
`PyroError` or `ChannelClosed`, and must take no lock that is held while a listener is closed."""


class Listener:
    """One published port. Made by `Publisher.publish`; `host` and `port` are the address that clients dial."""

    def __init__(self, publisher: Publisher, sock: socket.socket, open_stream: OpenStream) -> None:
        self.host: str = sock.getsockname()[0]
        self.port: int = sock.getsockname()[1]
        self.connection_count = 0
        self._publisher = publisher
        self._sock = sock
        self._open_stream = open_stream
        self._closing = False
        self._gone = threading.Event()

    def close(self) -> None:
        """Free the port and end its connections; returns when both is done. Idempotent."""
        self._publisher._close([self])


class Publisher:
    """Published ports that share their limits: one publisher for each machine.

    `half_open_seconds` bounds the silence of a connection of which one direction has ended.
    """

    def __init__(
        self,
        *,
        connections: int = CONNECTIONS,
        listener_connections: int = LISTENER_CONNECTIONS,
        half_open_seconds: float = HALF_OPEN_SECONDS,
    ) -> None:
        self._max = connections
        self._max_each = listener_connections
        self._half_open_seconds = half_open_seconds
        self._lock = threading.Lock()
        self._listeners: set[Listener] = set()
        self._connections: set[_Connection] = set()
        self._closed = False
        self._wake: Wake | None = None
        self._thread: threading.Thread | None = None

    def publish(self, open_stream: OpenStream, *, port: int = 0, host: str = LOOPBACK) -> Listener:
        """Listen on `host`, an address of this host, at `port`, or at a free one when that is 0.

        Raises `InvalidArgument`, `Conflict` when the port is taken, `PermissionDenied` or `Capacity`.
        """
        sock = _listen(host, port)
        try:
            with self._lock:
                if self._closed:
                    raise Conflict(f"cannot publish port {port}: what it would lead to is gone")
                wake = self._start()
                listener = Listener(self, sock, open_stream)
                self._listeners.add(listener)
        except PyroError:
            sock.close()
            raise
        wake.set()
        return listener

    def close(self) -> None:
        """End all listeners and connections; returns when nothing is left. Idempotent."""
        with self._lock:
            self._closed = True
            listeners = list(self._listeners)
            thread = self._thread
        self._close(listeners)
        if thread is not None:
            thread.join()

    # -- life

    def _start(self) -> Wake:
        if self._wake is None:
            try:
                wake = Wake()
            except OSError as error:
                raise Capacity(f"cannot publish a port: {error.strerror}", hint=MAKE_ROOM) from None
            try:
                self._thread = begin(lambda: self._accept_loop(wake), "publish")
            except Capacity:
                wake.close()
                raise
            self._wake = wake
        return self._wake

    def _emit(self) -> None:
        if self._wake is not None:
            self._wake.set()

    def _close(self, listeners: list[Listener]) -> None:
        with self._lock:
            for listener in listeners:
                listener._closing = True
        self._emit()
        for listener in listeners:
            # A port is free only once nobody polls its descriptor, so the accepting thread closes it.
            listener._gone.wait()
        with self._lock:
            connections = [connection for connection in self._connections if connection.listener in listeners]
        for connection in connections:
            connection.stop()
        for connection in connections:
            connection.join()

    # -- the accepting thread

    def _accept_loop(self, wake: Wake) -> None:
        exhausted = False
        while True:
            wake.clear()
            with self._lock:
                self._reap()
                if self._closed and not self._listeners and not self._connections:
                    break
                waiting = {} if exhausted else {listener._sock.fileno(): listener for listener in self._with_room()}
            poll = select.poll()
            for fd in (wake.fd, *waiting):
                poll.register(fd, select.POLLIN)
            ready = dict(poll.poll(RETRY_MS if exhausted else None))
            exhausted = not all(self._accept(listener) for fd, listener in waiting.items() if fd in ready)
        wake.close()

    def _reap(self) -> None:
        """Forget what has ended. Joining takes no time here: `ended` is the last thing that such a thread does."""
        for connection in [connection for connection in self._connections if connection.ended]:
            connection.join()
            connection.listener.connection_count -= 1
            self._connections.discard(connection)
        for listener in [listener for listener in self._listeners if listener._closing]:
            listener._sock.close()
            listener._gone.set()
            self._listeners.discard(listener)

    def _with_room(self) -> Iterable[Listener]:
        if len(self._connections) < self._max:
            yield from (each for each in self._listeners if each.connection_count < self._max_each)

    def _accept(self, listener: Listener) -> bool:
        """Take one connection. False when this process is out of means for now."""
        with self._lock:
            if listener._closing or len(self._connections) >= self._max:
                return True
            try:
                sock, _ = listener._sock.accept()
            except OSError as error:
                # Whatever else this may say is about a connection that has gone meanwhile.
                return error.errno not in _EXHAUSTED
            connection = _Connection(self, listener, sock)
            try:
                connection.start()
            except RuntimeError:
                close_socket(sock, abort=True)
                return False
            listener.connection_count += 1
            self._connections.add(connection)
        return True


class _Connection:
    """One accepted connection, on its own thread."""

    def __init__(self, publisher: Publisher, listener: Listener, sock: socket.socket) -> None:
        self.listener = listener
        self.ended = False
        self._publisher = publisher
        self._sock = sock
        self._lock = threading.Lock()
        self._relay: Relay | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name=f"publish-{listener.port}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        self._thread.join()

    def stop(self) -> None:
        """End it now, from any thread."""
        with self._lock:
            self._stopped = True
            if self._relay is not None:
                self._relay.stop()

    def _run(self) -> None:
        try:
            self._serve()
        finally:
            self.ended = True
            self._publisher._emit()

    def _serve(self) -> None:
        try:
            stream = self.listener._open_stream()
        except (PyroError, ChannelClosed):
            # The client learns it by a reset, as from a port where nobody listens.
            close_socket(self._sock, abort=True)
            return
        try:
            relay = Relay(stream, self._sock, half_open_seconds=self._publisher._half_open_seconds)
        except OSError:
            close_socket(self._sock, abort=True)
            stream.cancel()
            stream.leave()
            return
        with self._lock:
            self._relay = relay
            if self._stopped:
                relay.stop()
        if relay.run() is not Ending.DONE:
            stream.cancel()
        stream.leave()


def _listen(host: str, port: int) -> socket.socket:
    address = _address(host)
    if not 0 <= port <= 65535:
        raise InvalidArgument(
            f"cannot publish port {port}: a port is from 1 to 65535", hint="Leave it out to have a free one picked."
        )
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    except OSError as error:
        raise _refusal(error, host, port) from None
    try:
        # So that a port is free again at once, and that "::" does not mean all of IPv4 too.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if address.version == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # What is accepted inherits these: a peer that vanished without a word is noticed.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEP_ALIVE:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
        sock.bind((str(address), port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise _refusal(error, host, port) from None
    return sock


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(LOOPBACK if host == "localhost" else host)
    except ValueError:
        raise InvalidArgument(
            f"cannot publish a port on {host[:64]!r}: not an IP address", hint=f"Use {LOOPBACK}."
        ) from None


def _refusal(error: OSError, host: str, port: int) -> PyroError:
    text = f"cannot publish port {port} on {host}: "
    match error.errno:
        case errno.EADDRINUSE:
            return Conflict(
                f"{text}it is taken by another program", hint="Name another host port, or none to have one picked."
            )
        case errno.EACCES | errno.EPERM:
            return PermissionDenied(
                f"{text}this user may not listen on it", hint="Use a port from 1024 on, or none to have one picked."
            )
        case errno.EADDRNOTAVAIL | errno.EAFNOSUPPORT | errno.EINVAL:
            return InvalidArgument(f"{text}not an address of this host", hint=f"Use {LOOPBACK}.")
        case _:
            return Capacity(f"{text}{os.strerror(error.errno) if error.errno else error}")
