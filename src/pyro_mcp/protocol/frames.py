"""Frames: how bytes on the wire become messages, and the limits that hold for every peer.

A frame is a 9-byte header (payload length u32, stream u32, kind u8, network order) and its payload. The decoder
is a pure state machine over bytes, so hostile input can be tested without a socket. Standard library only: the
guest runs this same module.
"""

from __future__ import annotations

import json
import struct
from enum import IntEnum
from typing import Any, NamedTuple

VERSION = 1
PREAMBLE = b"\x00pyro-wire\x00\r\n\x1a\x01"
"""Sent once by each side before its first frame. A reader drops everything before it, which is what makes a
new connection over an old virtio-serial port, with half a frame still in its buffers, start clean."""

HEADER = struct.Struct("!IIB")
MAX_PIECE = 256 * 1024
MAX_DATA = MAX_PIECE + 1
"""A piece and its tag."""
MAX_NOISE = 8 * 1024 * 1024
CAPACITY = MAX_DATA + 64 * 1024


class FrameKind(IntEnum):
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
    PLACED = 12
    TAKEN = 13


_PREAMBLE_LENGTH = int.from_bytes(PREAMBLE[:4], "big")
"""A preamble read as a header claims 7 MiB, which no frame has, so that it cannot be mistaken for one."""

BULK = frozenset({FrameKind.DATA, FrameKind.EVENT})
"""Kinds that spend flow-control credit."""


class FrameError(Exception):
    """The peer sent something no conforming peer sends; the connection cannot be trusted further."""


class Frame(NamedTuple):
    """One message. `tag` is that of DATA and not part of its payload."""

    kind: FrameKind
    stream: int
    payload: bytes = b""
    tag: int = 0

    def json(self) -> dict[str, Any]:
        """The payload as a JSON object. Raises `FrameError` for anything else, however it is malformed."""
        try:
            value = _parse(self.payload.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise FrameError(f"{self.kind.name} payload is not JSON: {type(error).__name__}") from None
        if not isinstance(value, dict):
            raise FrameError(f"{self.kind.name} payload is not a JSON object")
        return value


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


_parse = json.JSONDecoder(parse_constant=_refuse_constant).decode
_format = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
_KINDS = {int(kind): kind for kind in FrameKind}


def encode_json(value: dict[str, Any]) -> bytes:
    """Compact JSON. Lone surrogates (from undecodable file names) survive as escapes."""
    return _format(value).encode("ascii")


def encode(kind: FrameKind, stream: int, payload: bytes | memoryview = b"") -> tuple[bytes, bytes | memoryview]:
    """Header and payload, apart, so that a large payload is never copied to be sent."""
    return HEADER.pack(len(payload), stream, kind), payload


class FrameDecoder:
    """Turns received bytes into frames.

    Bytes are received straight into `space()` and taken from there once, into each frame's own payload: under
    emulation every further copy is felt. `max_control` caps JSON payloads in bytes; DATA payloads are capped by
    `MAX_DATA`. Memory stays below one frame plus one read, whatever the peer claims in a header, because a length is
    refused before it is awaited.
    """

    def __init__(self, *, max_control: int) -> None:
        self._max_control = max_control
        self._buffer = bytearray(CAPACITY)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._synced = False
        self._noise = 0

    @property
    def partial(self) -> bool:
        """Whether a frame has begun and not ended."""
        return self._synced and self._end > self._start

    @property
    def rest(self) -> bytes:
        """What was received and not yet turned into frames. After an error, from the frame that caused it."""
        return bytes(self._view[self._start : self._end])

    def space(self) -> memoryview:
        """Where to receive the next bytes; never empty."""
        return self._view[self._end :]

    def advance(self, count: int) -> list[Frame]:
        """The frames completed by the `count` bytes received into `space()`, in order. Raises `FrameError`."""
        self._end += count
        if not self._synced and not self._sync():
            return []
        frames: list[Frame] = []
        needed = HEADER.size
        while self._end - self._start >= HEADER.size:
            length, stream, raw_kind = HEADER.unpack_from(self._buffer, self._start)
            if length == _PREAMBLE_LENGTH and self._buffer.startswith(PREAMBLE[: HEADER.size], self._start):
                raise FrameError("the peer began a new connection")
            kind = self._check(length, raw_kind)
            needed = HEADER.size + length
            if self._end - self._start < needed:
                break
            frames.append(self._take(kind, stream, self._start + HEADER.size, self._start + needed))
            self._start += needed
            needed = HEADER.size
        self._make_room(needed)
        return frames

    def feed(self, data: bytes | memoryview) -> list[Frame]:
        """The frames completed by `data`, for bytes that are elsewhere already."""
        frames: list[Frame] = []
        while len(data):
            space = self.space()
            count = min(len(space), len(data))
            space[:count] = data[:count]
            frames += self.advance(count)
            data = data[count:]
        return frames

    def _take(self, kind: FrameKind, stream: int, begin: int, end: int) -> Frame:
        if kind is not FrameKind.DATA:
            return Frame(kind, stream, bytes(self._view[begin:end]))
        if begin == end:
            raise FrameError("DATA without a tag")
        return Frame(kind, stream, bytes(self._view[begin + 1 : end]), self._buffer[begin])

    def _make_room(self, needed: int) -> None:
        """Room for the rest of a frame of `needed` bytes. A rare large one gets a large buffer, for its time."""
        held = self._end - self._start
        size = max(CAPACITY, needed)
        if held == 0 and size == len(self._buffer):
            self._start = self._end = 0
        elif self._start + needed > len(self._buffer) or self._end == len(self._buffer) or size < len(self._buffer):
            rest = bytes(self._view[self._start : self._end])
            if size != len(self._buffer):
                self._buffer = bytearray(size)
                self._view = memoryview(self._buffer)
            self._view[:held] = rest
            self._start, self._end = 0, held

    def _check(self, length: int, raw_kind: int) -> FrameKind:
        kind = _KINDS.get(raw_kind)
        if kind is None:
            raise FrameError(f"unknown frame kind {raw_kind}")
        cap = MAX_DATA if kind is FrameKind.DATA else self._max_control
        if length > cap:
            raise FrameError(f"{kind.name} frame of {length} bytes exceeds the cap of {cap}")
        return kind

    def _sync(self) -> bool:
        at = self._buffer.find(PREAMBLE, self._start, self._end)
        if at >= 0:
            self._start = at + len(PREAMBLE)
            self._synced = True
            return True
        surplus = self._end - self._start - len(PREAMBLE) + 1
        if surplus > 0:
            self._noise += surplus
            self._start += surplus
        if self._noise > MAX_NOISE:
            raise FrameError("no preamble found: the peer does not speak this protocol")
        self._make_room(len(PREAMBLE))
        return False
