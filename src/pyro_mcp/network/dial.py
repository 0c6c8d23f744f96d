"""Dial: one TCP connection to one address, within a deadline, and cancelled at once on request."""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections.abc import Callable

from pyro_mcp.errors import Cancelled
from pyro_mcp.network.addresses import Address
from pyro_mcp.protocol.wake import Wake

CONNECT_SECONDS = 10.0

OnCancel = Callable[[Callable[[], None] | None], None]
"""Takes what is to be called on a cancel; None takes it back."""


def dial(address: Address, port: int, on_cancel: OnCancel, *, seconds: float = CONNECT_SECONDS) -> socket.socket:
    """A connected, non-blocking socket. Nothing is looked up. Raises `OSError`, `TimeoutError` among it, and
    `Cancelled`."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        code = sock.connect_ex((str(address), port))
        if code == errno.EINPROGRESS:
            _wait(sock, on_cancel, seconds)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    except BaseException:
        sock.close()
        raise
    return sock


def _wait(sock: socket.socket, on_cancel: OnCancel, seconds: float) -> None:
    wake, deadline = Wake(), time.monotonic() + seconds
    try:
        on_cancel(wake.set)
        poller = select.poll()
        poller.register(sock, select.POLLOUT)
        poller.register(wake.fd, select.POLLIN)
        ready = dict(poller.poll(max(0.0, deadline - time.monotonic()) * 1000))
    finally:
        on_cancel(None)
        wake.close()
    if not ready:
        raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
    if sock.fileno() not in ready:
        raise Cancelled("cannot connect: nobody wants it any more")
