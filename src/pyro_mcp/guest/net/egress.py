"""egress: connections out of the guest, each asked for first, then carried.

A program's first packet waits in the queue while the host connects. Only then does the packet go on, is turned round to
our listener, and the accepted socket is joined with the host's stream; so `connect` fails in the guest as it did on
the host. Sockets and streams find each other by where they go: two streams to one address and port are as good as
each other, and the kernel may change a source port on the way.
"""

from __future__ import annotations

import _socket
import struct
import time
from collections import deque
from functools import partial

from pyro_mcp.guest.net import rules
from pyro_mcp.guest.net.host import Absent, Answer, Host, HostRefusal, abandon
from pyro_mcp.guest.net.loop import Loop, accepted
from pyro_mcp.guest.net.queue import ConnectionKey, Packet, Queue
from pyro_mcp.protocol.channel import Stream
from pyro_mcp.protocol.relay import Ending, Relay, close_socket
from pyro_mcp.protocol.workers import Workers

MOST = 128
"""Connections under way: a few more than the host allows, so that the host refuses, and records it."""
HALF_OPEN_SECONDS = 3600.0
ARRIVAL_SECONDS = 10.0
_ORIGINAL_DESTINATION = 80
_IPV6_LEVEL = 41
_MARKS = {"permission": rules.FORBIDDEN, "refused": rules.REFUSED}

Target = tuple[str, int]


class AgentEgress:
    """Owns `queue` and `listeners`. Everything but carrying happens on the loop's thread."""

    def __init__(self, loop: Loop, host: Host, queue: Queue, listeners: list[_socket.socket]) -> None:
        self._loop = loop
        self._host = host
        self._queue = queue
        self._workers = Workers()
        self._under_way = 0
        self._requesting: set[ConnectionKey] = set()
        self._ready: dict[Target, deque[tuple[float, Stream]]] = {}
        self._sweeping = False
        loop.add(queue.fileno(), self._judge)
        for listener in listeners:
            loop.add(listener.fileno(), partial(self._accept, listener))

    # -- first packets

    def _judge(self) -> None:
        for packet in self._queue.packets():
            self._ask(packet)

    def _ask(self, packet: Packet) -> None:
        flow = packet.flow
        if flow is not None and flow in self._requesting:
            self._queue.drop(packet.number)  # Sent again, for want of an answer; the first one still waits.
        elif flow is None or self._under_way >= MOST:
            self._queue.mark(packet.number, rules.UNREACHABLE)
        else:
            self._requesting.add(flow)
            self._under_way += 1
            params = {"address": flow.address, "port": flow.port}
            self._host.request(
                "net_connect", params, lambda answer, stream: self._decide(packet.number, flow, answer, stream)
            )

    def _decide(self, number: int, flow: ConnectionKey, answer: Answer, stream: Stream | None) -> None:
        self._requesting.discard(flow)
        if stream is not None:
            self._expect((flow.address, flow.port), stream)
            self._queue.accept(number)
            return
        self._under_way -= 1
        if isinstance(answer, Absent) and answer.soon:
            self._queue.drop(number)
        else:
            code = answer.code if isinstance(answer, HostRefusal) else ""
            self._queue.mark(number, _MARKS.get(code, rules.UNREACHABLE))

    # -- streams that wait for their socket

    def _expect(self, target: Target, stream: Stream) -> None:
        self._ready.setdefault(target, deque()).append((time.monotonic() + ARRIVAL_SECONDS, stream))
        if not self._sweeping:
            self._sweeping = True
            self._loop.later(ARRIVAL_SECONDS, self._sweep)

    def _sweep(self) -> None:
        """Leave the streams whose program has gone before its connection was made."""
        now = time.monotonic()
        for target, waiting in list(self._ready.items()):
            while waiting and waiting[0][0] <= now:
                abandon(waiting.popleft()[1])
                self._under_way -= 1
            if not waiting:
                del self._ready[target]
        self._sweeping = bool(self._ready)
        if self._sweeping:
            self._loop.later(ARRIVAL_SECONDS, self._sweep)

    def _take(self, target: Target) -> Stream | None:
        waiting = self._ready.get(target)
        return waiting.popleft()[1] if waiting else None

    # -- sockets

    def _accept(self, listener: _socket.socket) -> None:
        for sock in accepted(listener):
            stream = self._take(original_destination(sock))
            if stream is None:
                close_socket(sock, abort=True)  # Came straight to our port, and leads nowhere.
            else:
                self._carry(stream, sock)

    def _carry(self, stream: Stream, sock: _socket.socket) -> None:
        def work() -> None:
            try:
                if Relay(stream, sock, half_open_seconds=HALF_OPEN_SECONDS).run() is Ending.DONE:
                    stream.leave()
                else:
                    abandon(stream)
            except OSError:
                # Not even a descriptor to begin with: the program sees its connection break.
                abandon(stream)
                close_socket(sock, abort=True)
            finally:
                self._loop.call(self._leave)

        try:
            self._workers.submit(work)
        except RuntimeError:
            # The guest's programs have used up its threads.
            abandon(stream)
            close_socket(sock, abort=True)
            self._leave()

    def _leave(self) -> None:
        self._under_way -= 1


def original_destination(sock: _socket.socket) -> Target:
    """Where an accepted connection was going before it was turned round; its own address if it was not."""
    try:
        if sock.family == _socket.AF_INET:
            port, raw = struct.unpack_from("!2xH4s", sock.getsockopt(_socket.SOL_IP, _ORIGINAL_DESTINATION, 16))
        else:
            port, raw = struct.unpack_from("!2xH4x16s", sock.getsockopt(_IPV6_LEVEL, _ORIGINAL_DESTINATION, 28))
    except OSError:
        return sock.getsockname()[:2]  # type: ignore[no-any-return]
    return _socket.inet_ntop(sock.family, raw), port
