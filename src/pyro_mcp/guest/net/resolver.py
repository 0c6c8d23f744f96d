"""resolver: the guest's name server. Every question goes to the host, which knows the policy.

It answers on the loopback addresses over UDP and TCP; the rules turn all DNS there, whichever server a program asks.
Nothing is kept: the host has a cache, and an answer there is what the policy later knows an address by.
"""

from __future__ import annotations

import _socket
import contextlib
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from pyro_mcp.guest.net import dns
from pyro_mcp.guest.net.host import Absent, Answer, Host, HostRefusal
from pyro_mcp.guest.net.loop import Loop, accepted
from pyro_mcp.protocol.channel import Stream

MAX_QUESTIONS = 64
MAX_WAITING, WAITING_SECONDS = 512, 5.0
"""Beyond those that are being asked. Nobody waits for longer than that: programs ask again."""
MAX_CLIENTS = 16
CLIENT_SECONDS = 30.0
QUERY_BYTES = 4096
STREAM_BYTES = 65535
_BATCH = 32
Send = Callable[[bytes], None]


class Question(NamedTuple):
    """One that is to be asked, and how to answer it."""

    query: dns.Query
    limit: int | None
    send: Send
    until: float


class DnsServer:
    """Serves `sockets`, datagram sockets and listeners, which it owns. Without `ipv6`, no name has an IPv6 address."""

    def __init__(self, loop: Loop, host: Host, sockets: list[_socket.socket], *, ipv6: bool) -> None:
        self._loop = loop
        self._host = host
        self._ipv6 = ipv6
        self._open = 0
        self._waiting: deque[Question] = deque()
        self.clients: set[DnsClient] = set()
        for sock in sockets:
            serve = self._receive if sock.type == _socket.SOCK_DGRAM else self._accept
            loop.add(sock.fileno(), partial(serve, sock))

    def answer(self, message: bytes, limit: int | None, send: Send) -> None:
        """Answer one message by `send`, now or later; not at all when there is nothing to say."""
        try:
            query = dns.parse(message)
        except dns.BadQuery as error:
            if error.reply:
                send(error.reply)
            return
        family = dns.FAMILIES.get(query.kind)
        if family is None or (family == 6 and not self._ipv6):
            send(dns.reply(query, dns.NO_ERROR, limit=limit))
        elif self._open >= MAX_QUESTIONS and len(self._waiting) >= MAX_WAITING:
            send(dns.reply(query, dns.SERVER_FAILURE, limit=limit))
        else:
            self._waiting.append(Question(query, limit, send, time.monotonic() + WAITING_SECONDS))
            self._next()

    def _next(self) -> None:
        """Ask as many of those that wait as there is room for."""
        while self._waiting and self._open < MAX_QUESTIONS:
            question = self._waiting.popleft()
            if time.monotonic() < question.until:
                self._open += 1
                params = {"name": question.query.name, "family": dns.FAMILIES[question.query.kind]}
                self._host.request("net_resolve", params, partial(self._emit, question))

    def _emit(self, question: Question, answer: Answer, _stream: Stream | None) -> None:
        query, limit, send, _ = question
        self._open -= 1
        if self._waiting:
            # Later, since this may be in the middle of asking.
            self._loop.call(self._next)
        if isinstance(answer, Absent):
            # Asked again after a while, when a restarted node may be back.
            if not answer.soon:
                send(dns.reply(query, dns.SERVER_FAILURE, limit=limit))
        elif isinstance(answer, HostRefusal) and answer.code == "permission":
            send(dns.blocked(query, limit=limit))
        elif isinstance(answer, HostRefusal):
            code = dns.NAME_ERROR if answer.code == "not_found" else dns.SERVER_FAILURE
            send(dns.reply(query, code, limit=limit))
        else:
            ttl = answer.get("ttl")
            addresses = dns.packed(query.kind, answer.get("addresses"))
            send(dns.reply(query, dns.NO_ERROR, addresses, ttl if isinstance(ttl, int) else 0, limit=limit))

    # -- UDP

    def _receive(self, sock: _socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            for _ in range(_BATCH):
                message, peer = sock.recvfrom(QUERY_BYTES)
                self.answer(message, None, partial(_send_to, sock, peer))

    # -- TCP

    def _accept(self, listener: _socket.socket) -> None:
        for sock in accepted(listener):
            if len(self.clients) >= MAX_CLIENTS:
                sock.close()
            else:
                DnsClient(self._loop, self, sock)


class DnsClient:
    """One TCP connection, for at most `CLIENT_SECONDS`: messages with their length before them, both ways."""

    def __init__(self, loop: Loop, resolver: DnsServer, sock: _socket.socket) -> None:
        self._loop = loop
        self._resolver = resolver
        self._sock = sock
        self._received = bytearray()
        sock.setblocking(False)
        resolver.clients.add(self)
        loop.add(sock.fileno(), self._read)
        loop.later(CLIENT_SECONDS, self.close)

    def close(self) -> None:
        if self in self._resolver.clients:
            self._resolver.clients.remove(self)
            self._loop.remove(self._sock.fileno())
            self._sock.close()

    def _read(self) -> None:
        try:
            piece = self._sock.recv(QUERY_BYTES)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        self._received += piece
        while len(self._received) >= 2:
            end = 2 + int.from_bytes(self._received[:2], "big")
            if end > QUERY_BYTES:
                piece = b""
            if end > QUERY_BYTES or len(self._received) < end:
                break
            message = bytes(self._received[2:end])
            del self._received[:end]
            self._resolver.answer(message, STREAM_BYTES, self._send)
        if not piece:
            self.close()

    def _send(self, data: bytes) -> None:
        """Answers are small; a client that has no room even for one has stopped reading."""
        if self not in self._resolver.clients:
            return
        framed = len(data).to_bytes(2, "big") + data
        try:
            sent = self._sock.send(framed)
        except OSError:
            sent = 0
        if sent != len(framed):
            self.close()


def _send_to(sock: _socket.socket, peer: tuple[Any, ...], data: bytes) -> None:
    """An answer that cannot be sent is lost, like any datagram."""
    with contextlib.suppress(OSError):
        sock.sendto(data, peer)
