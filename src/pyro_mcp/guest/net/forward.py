"""forward: a TCP connection to a server on the guest's own loopback, carried over a stream.

Only loopback is dialled, so a published port reaches what runs in the guest and never a way out of it.
"""

from __future__ import annotations

import _socket
import errno
import os
import select
import time
from typing import Any

from pyro_mcp.guest import params as read
from pyro_mcp.guest.errors import AgentError, cause, invalid
from pyro_mcp.protocol.channel import ChannelClosed, Stream
from pyro_mcp.protocol.relay import Ending, Relay, close_socket
from pyro_mcp.protocol.wake import Wake

CONNECT_SECONDS = 10.0
_BOTH = ((_socket.AF_INET, "127.0.0.1"), (_socket.AF_INET6, "::1"))
_ADDRESSES = {"localhost": _BOTH, "127.0.0.1": _BOTH[:1], "::1": _BOTH[1:]}
_NOBODY = (errno.ECONNREFUSED, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.ENETUNREACH)


def tcp_connect(stream: Stream) -> dict[str, Any]:
    """Serve `tcp_connect`: host (127.0.0.1, ::1 or localhost: the one, then the other), port, timeout_seconds.

    The event {"connected": true}, then DATA 0 both ways, END for the end of a direction; → sent, received (bytes, as
    the server sees them). Answers `not_found` when nothing listens, `timeout` when a listener does not accept,
    `conflict` when the connection breaks.
    """
    host = read.text(stream.params, "host", limit=64)
    if host not in _ADDRESSES:
        raise invalid("cannot tcp_connect: host must be 127.0.0.1, ::1 or localhost", "Only the guest's own loopback.")
    port = read.integer(stream.params, "port", min_=1, max_=65535)
    timeout = read.seconds(stream.params, "timeout_seconds") or CONNECT_SECONDS
    sock = _dial(stream, host, port, time.monotonic() + timeout)
    try:
        # Nothing but small notices may be on its way before the relay runs, so this never waits for credit.
        stream.event({"connected": True})
        relay = Relay(stream, sock)
    except (ChannelClosed, OSError):
        close_socket(sock, abort=True)
        raise
    ending = relay.run()
    if ending is Ending.DONE:
        return {"sent": relay.written, "received": relay.read}
    if ending is Ending.BROKEN:
        raise AgentError("conflict", f"cannot tcp_connect port {port}: the connection broke: {relay.cause}")
    raise _cancelled()


def _dial(stream: Stream, host: str, port: int, deadline: float) -> _socket.socket:
    wake = Wake()
    stream.watch(wake.set)
    try:
        for family, address in _ADDRESSES[host]:
            sock = _connect(stream, wake, family, (address, port), deadline)
            if sock is not None:
                return sock
    finally:
        stream.watch(None)
        wake.close()
    raise AgentError(
        "not_found", f"cannot tcp_connect port {port}: nothing listens on port {port} in the guest", _LISTEN_HINT
    )


_LISTEN_HINT = "Start a server on it that listens on 127.0.0.1 or on all addresses."


def _connect(
    stream: Stream, wake: Wake, family: int, address: tuple[str, int], deadline: float
) -> _socket.socket | None:
    """A connected socket, or None when nobody is there. The wait ends with the deadline or with a cancel."""
    try:
        sock = _socket.socket(family, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK)
    except OSError as error:
        if error.errno in _NOBODY:
            return None
        raise AgentError("capacity", f"cannot tcp_connect port {address[1]}: {cause(error)}") from None
    connected = False
    try:
        failure = sock.connect_ex(address)
        if failure == errno.EINPROGRESS:
            failure = _wait(stream, wake, sock, deadline)
        connected = failure == 0
    finally:
        if not connected:
            close_socket(sock, abort=True)
    if failure == errno.ETIMEDOUT:
        raise AgentError("timeout", f"cannot tcp_connect port {address[1]}: its server does not accept connections")
    if failure and failure not in _NOBODY:
        raise AgentError("conflict", f"cannot tcp_connect port {address[1]}: {os.strerror(failure)}")
    return sock if connected else None


def _wait(stream: Stream, wake: Wake, sock: _socket.socket, deadline: float) -> int:
    """The error number with which connecting ended; 0 for success."""
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    poll.register(wake.fd, select.POLLIN)
    while True:
        wake.clear()
        if stream.cancelled:
            raise _cancelled()
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            return errno.ETIMEDOUT
        ready = dict(poll.poll(remaining * 1000 + 1))
        if sock.fileno() in ready:
            return sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)


def _cancelled() -> AgentError:
    return AgentError("cancelled", "cannot tcp_connect: it was cancelled")
