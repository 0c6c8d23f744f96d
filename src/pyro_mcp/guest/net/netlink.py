"""netlink: requests to the kernel's network configuration, written by hand, since no image must bring `ip` or `nft`.

A message is a 16-byte header, a fixed part that depends on its type, and attributes, which nest. Integers are in the
machine's order in the headers and in whatever order the subsystem likes in the attributes.
"""

from __future__ import annotations

import _socket
import os
import struct
from collections.abc import Iterator

AF_NETLINK = 16
ROUTE, NETFILTER = 0, 12
REQUEST, ACK, EXCLUSIVE, CREATE, APPEND = 1, 4, 0x200, 0x400, 0x800
ERROR = 2
NESTED = 0x8000
_SOL_NETLINK, _NO_ENOBUFS = 270, 5
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_ERRNO = struct.Struct("=i")
_KIND_MASK = 0x3FFF
_ANSWER_SECONDS = 10.0
RECEIVE_BYTES = 65536


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | NESTED, b"".join(attributes))


def text(kind: int, value: str) -> bytes:
    """A text with its final NUL."""
    return attribute(kind, value.encode() + b"\0")


def be32(kind: int, value: int) -> bytes:
    """A number in network order, which is what netfilter speaks; negative ones as their two's complement."""
    return attribute(kind, (value & 0xFFFFFFFF).to_bytes(4, "big"))


def be16(kind: int, value: int) -> bytes:
    """The same in two bytes."""
    return attribute(kind, value.to_bytes(2, "big"))


def attributes(data: memoryview) -> dict[int, memoryview]:
    """The attributes in `data` by kind; the last of a kind wins. What is malformed ends the list."""
    found: dict[int, memoryview] = {}
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size or at + length > len(data):
            break
        found[kind & _KIND_MASK] = data[at + _ATTRIBUTE.size : at + length]
        at += length + -length % 4
    return found


def message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """One message."""
    return _HEADER.pack(_HEADER.size + len(body), kind, flags | REQUEST, sequence, 0) + body


def messages(data: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """The messages in a datagram: type, sequence, body."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, _flags, sequence, _port = _HEADER.unpack_from(data, at)
        if length < _HEADER.size or at + length > len(data):
            return
        yield kind, sequence, data[at + _HEADER.size : at + length]
        at += length + -length % 4


class Netlink:
    """A socket to one subsystem. Messages get their sequence numbers here."""

    def __init__(self, protocol: int) -> None:
        self.socket = _socket.socket(AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, protocol)
        self.socket.setsockopt(_SOL_NETLINK, _NO_ENOBUFS, 1)
        self.socket.bind((0, 0))
        self._sequence = 0

    def close(self) -> None:
        self.socket.close()

    def send(self, kind: int, flags: int, body: bytes) -> int:
        """Send one message without waiting; its sequence number."""
        self._sequence += 1
        self.socket.send(message(kind, flags, self._sequence, body))
        return self._sequence

    def request(self, *requests: tuple[int, int, bytes]) -> None:
        """Send (type, flags, body) as one datagram, and wait until each that asks for it has its acknowledgement.

        Raises `OSError` with the kernel's first complaint.
        """
        waiting, parts = set(), []
        for kind, flags, body in requests:
            self._sequence += 1
            parts.append(message(kind, flags, self._sequence, body))
            if flags & ACK:
                waiting.add(self._sequence)
        self.socket.settimeout(_ANSWER_SECONDS)
        try:
            self.socket.send(b"".join(parts))
            while waiting:
                self._settle(waiting)
        finally:
            self.socket.settimeout(None)

    def _settle(self, waiting: set[int]) -> None:
        for kind, sequence, body in messages(memoryview(self.socket.recv(RECEIVE_BYTES))):
            if kind != ERROR or len(body) < 4:
                continue
            number = -_ERRNO.unpack_from(body)[0]
            if number:
                raise OSError(number, os.strerror(number))
            waiting.discard(sequence)
