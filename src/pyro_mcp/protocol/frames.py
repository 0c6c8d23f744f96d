"""Frames: how bytes on the wire become messages, and the caps a peer cannot talk its way around.

A frame is a 9-byte header (payload length u32, stream u32, kind u8, network order) and its payload. The decoder
is a pure state machine over bytes, so hostile input can be tested without a socket. Standard library only: the
guest runs this same module.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

VERSION = 1
PREAMBLE = b"\x00pyro-wire\x00\r\n\x1a\x01"
"""Sent once by each side before its first frame. A reader drops everything before it, which is what makes a
new connection over an old virtio-serial port, with half a frame still in its buffers, start clean."""

HEADER = struct.Struct("!IIB")
MAX_DATA = 256 * 1024
MAX_NOISE = 8 * 1024 * 1024


class Kind(IntEnum):
    HELLO = 1
    OPEN = 2
    DATA = 3
    CREDIT = 4
    END = 5
    EVENT = 6
    RESULT = 7
    ERROR = 8
    CANCEL = 9
    PING = 10
    PONG = 11


BULK = frozenset({Kind.DATA, Kind.EVENT})
"""Kinds that spend flow-control credit."""


class FrameError(Exception):
    """The peer sent something no conforming peer sends; the connection cannot be trusted further."""


@dataclass(frozen=True, slots=True)
class Frame:
    kind: Kind
    stream: int
    payload: bytes = b""

    def json(self) -> dict[str, Any]:
        """The payload as a JSON object. Raises `FrameError` for anything else, however it is malformed."""
        try:
            value = json.loads(self.payload.decode("utf-8"), parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise FrameError(f"{self.kind.name} payload is not JSON: {type(error).__name__}") from None
        if not isinstance(value, dict):
            raise FrameError(f"{self.kind.name} payload is not a JSON object")
        return value


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def encode_json(value: dict[str, Any]) -> bytes:
    """Compact JSON. Lone surrogates (from undecodable file names) survive as escapes."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")


def encode(kind: Kind, stream: int, payload: bytes | memoryview = b"") -> tuple[bytes, bytes | memoryview]:
    """Header and payload, apart, so that a large payload is never copied to be sent."""
    return HEADER.pack(len(payload), stream, kind), payload


class Decoder:
    """Turns received bytes into frames.

    `max_control` caps JSON payloads in bytes; DATA payloads are capped by `MAX_DATA`. Memory stays below one
    frame plus one read, whatever the peer claims in a header, because a length is refused before it is awaited.
    """

    def __init__(self, *, max_control: int) -> None:
        self._max_control = max_control
        self._buffer = bytearray()
        self._synced = False
        self._noise = 0

    @property
    def partial(self) -> bool:
        """Whether a frame has begun and not ended."""
        return self._synced and bool(self._buffer)

    def feed(self, data: bytes | memoryview) -> list[Frame]:
        """The frames completed by `data`, in order. Raises `FrameError` on the first broken rule."""
        self._buffer += data
        if not self._synced and not self._sync():
            return []
        frames: list[Frame] = []
        position, size, buffer = 0, len(self._buffer), self._buffer
        while size - position >= HEADER.size:
            length, stream, raw_kind = HEADER.unpack_from(buffer, position)
            kind = self._check(length, raw_kind)
            end = position + HEADER.size + length
            if end > size:
                break
            frames.append(Frame(kind, stream, bytes(memoryview(buffer)[position + HEADER.size : end])))
            position = end
        if position:
            del buffer[:position]
        return frames

    def _check(self, length: int, raw_kind: int) -> Kind:
        try:
            kind = Kind(raw_kind)
        except ValueError:
            raise FrameError(f"unknown frame kind {raw_kind}") from None
        cap = MAX_DATA if kind is Kind.DATA else self._max_control
        if length > cap:
            raise FrameError(f"{kind.name} frame of {length} bytes exceeds the cap of {cap}")
        return kind

    def _sync(self) -> bool:
        at = self._buffer.find(PREAMBLE)
        if at >= 0:
            del self._buffer[: at + len(PREAMBLE)]
            self._synced = True
            return True
        surplus = len(self._buffer) - len(PREAMBLE) + 1
        if surplus > 0:
            self._noise += surplus
            del self._buffer[:surplus]
        if self._noise > MAX_NOISE:
            raise FrameError("no preamble found: the peer does not speak this protocol")
        return False
