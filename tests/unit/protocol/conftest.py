"""One real channel against a peer that writes whatever bytes it likes."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pyro_mcp.protocol.channel import Channel, Stream
from pyro_mcp.protocol.frames import PREAMBLE, VERSION, Frame, FrameDecoder, FrameKind, encode_json
from pyro_mcp.protocol.pipe import Pipe


def frame(kind: int, stream: int = 0, payload: bytes = b"") -> bytes:
    return struct.pack("!IIB", len(payload), stream, kind) + payload


def json_frame(kind: FrameKind, stream: int, value: Any) -> bytes:
    return frame(kind, stream, encode_json(value))


HELLO = PREAMBLE + json_frame(FrameKind.HELLO, 0, {"version": VERSION, "role": "hostile"})


class Rogue:
    """The other end of the wire, without manners. It sees the frames it is sent, if it asks."""

    def __init__(self, peer: socket.socket) -> None:
        self.socket = peer
        self._decoder = FrameDecoder(max_control=1 << 20)
        self._frames: list[Frame] = []

    def send(self, data: bytes) -> None:
        """Send, unless the victim has rightly hung up."""
        try:
            self.socket.sendall(data)
        except OSError:
            pass

    def begin_anew(self) -> None:
        """Read what comes next as a new connection."""
        self._decoder = FrameDecoder(max_control=1 << 20)

    def receive(self, kind: FrameKind, seconds: float = 30.0) -> Frame:
        self.socket.settimeout(seconds)
        while True:
            for found in self._frames:
                if found.kind is kind:
                    self._frames.remove(found)
                    return found
            data = self.socket.recv(65536)
            assert data, "hung up"
            self._frames += self._decoder.feed(data)


@pytest.fixture
def pair() -> Iterator[tuple[Channel, Rogue]]:
    """A node's channel that has shaken hands with a rogue, and serves nothing itself."""
    ours, theirs = socket.socketpair()
    rogue = Rogue(theirs)
    rogue.send(HELLO)
    channel = Channel(Pipe(ours.detach()), initiator=True, hello={"role": "node"}, frame_seconds=0.5)
    channel.start(5)
    yield channel, rogue
    channel.close()
    theirs.close()


@pytest.fixture
def connect() -> Iterator[Callable[..., tuple[Channel, Channel]]]:
    """Two well-behaved channels; the second serves with `handler`."""
    made: list[Channel] = []

    def make(handler: Callable[[Stream], None]) -> tuple[Channel, Channel]:
        ours, theirs = socket.socketpair()
        client = Channel(Pipe(ours.detach()), initiator=True, hello={"role": "client"})
        server = Channel(Pipe(theirs.detach()), initiator=False, hello={"role": "server"}, handler=handler)
        made.extend((client, server))
        greeting = threading.Thread(target=server.start, args=(5,))
        greeting.start()
        client.start(5)
        greeting.join()
        return client, server

    yield make
    for channel in made:
        channel.close()


def closed_in(channel: Channel, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not channel.closed and time.monotonic() < deadline:
        time.sleep(0.01)
    return channel.closed
