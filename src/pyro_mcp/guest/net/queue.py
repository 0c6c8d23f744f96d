"""queue: where the first packet of each connection waits for a verdict.

The kernel hands it over with its headers (nfnetlink_queue) and holds it until `verdict` names it again. Whatever is in
a packet was written by a program in the guest: it is parsed as far as its addresses, and believed in nothing else.
"""

from __future__ import annotations

import _socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

from pyro_mcp.guest.net.netlink import (
    ACK,
    NETFILTER,
    RECEIVE_BYTES,
    Netlink,
    attribute,
    attributes,
    be32,
    messages,
)

_SUBSYSTEM = 3
_PACKET, _VERDICT, _CONFIG = 0, 1, 2
_BIND = 1
_COPY_PACKET = 2
_HEADERS = 128
_MAX_WAITING = 512
_DROP, _ACCEPT, _REPEAT = 0, 1, 4
_TCP = _socket.IPPROTO_TCP


class ConnectionKey(NamedTuple):
    """Both ends of a connection, as its first packet has them."""

    source: str
    source_port: int
    address: str
    port: int


class Packet(NamedTuple):
    """A waiting packet; `flow` is None when it is not a TCP packet that we understand."""

    number: int
    flow: ConnectionKey | None


class Queue:
    """The queue `number`. `fileno` becomes readable when packets wait."""

    def __init__(self, number: int) -> None:
        """Become its one listener. Raises `OSError`."""
        self._number = number
        self._netlink = Netlink(NETFILTER)
        parameters = attribute(2, struct.pack("!IB", _HEADERS, _COPY_PACKET))
        try:
            for body in (attribute(1, struct.pack("!BxH", _BIND, 0)), parameters + be32(3, _MAX_WAITING)):
                self._netlink.request((_SUBSYSTEM << 8 | _CONFIG, ACK, self._head() + body))
        except OSError:
            self._netlink.close()
            raise
        self._netlink.socket.setblocking(False)

    def fileno(self) -> int:
        return self._netlink.socket.fileno()

    def close(self) -> None:
        self._netlink.close()

    def packets(self) -> Iterator[Packet]:
        """Those that wait now."""
        while True:
            try:
                data = self._netlink.socket.recv(RECEIVE_BYTES)
            except BlockingIOError:
                return
            for kind, _sequence, body in messages(memoryview(data)):
                packet = parse_packet(body[4:]) if kind == _SUBSYSTEM << 8 | _PACKET else None
                if packet is not None:
                    yield packet

    def accept(self, number: int) -> None:
        """Let the packet go on."""
        self._verdict(_ACCEPT, number)

    def drop(self, number: int) -> None:
        """Forget the packet; its sender will try again."""
        self._verdict(_DROP, number)

    def mark(self, number: int, mark: int) -> None:
        """Send the packet through the rules again, marked."""
        self._verdict(_REPEAT, number, be32(3, mark))

    def _verdict(self, verdict: int, number: int, extra: bytes = b"") -> None:
        body = self._head() + attribute(2, struct.pack("!II", verdict, number)) + extra
        self._netlink.send(_SUBSYSTEM << 8 | _VERDICT, 0, body)

    def _head(self) -> bytes:
        return struct.pack("!BBH", _socket.AF_UNSPEC, 0, self._number)


def parse_packet(body: memoryview) -> Packet | None:
    """The attributes of a queued packet; None when they lack its number."""
    found = attributes(body)
    if len(found.get(1, b"")) < 4:
        return None
    return Packet(int.from_bytes(found[1][:4], "big"), parse_flow(bytes(found.get(10, b""))))


def parse_flow(packet: bytes) -> ConnectionKey | None:
    """The ends of a TCP packet with its IP header; None for anything else."""
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= 20 and packet[9] == _TCP:
        family, ends, at = _socket.AF_INET, packet[12:20], (packet[0] & 15) * 4
    elif version == 6 and len(packet) >= 40 and packet[6] == _TCP:
        family, ends, at = _socket.AF_INET6, packet[8:40], 40
    else:
        return None
    if at < 20 or len(packet) < at + 4:
        return None
    half = len(ends) // 2
    source_port, port = struct.unpack_from("!HH", packet, at)
    return ConnectionKey(
        _socket.inet_ntop(family, ends[:half]), source_port, _socket.inet_ntop(family, ends[half:]), port
    )
