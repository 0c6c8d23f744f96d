"""A peer that is known to be stopped: requests are refused, nothing is given up, and afterwards it goes on."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from pyro_mcp.protocol import channel as channel_module
from pyro_mcp.protocol import standstill
from pyro_mcp.protocol.channel import Channel, RemoteError, Stream, StreamResult
from pyro_mcp.protocol.pipe import Pipe

REFUSAL = {"code": "disk_full", "message": "cannot go on", "hint": "Free some"}


class Peer:
    """Answers `quick` at once, `long` when it is told or cancelled, and takes no input before `reads`."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.told = threading.Event()
        self.cancelled = threading.Event()
        self.heard: list[str] = []
        self.channel = Channel(Pipe(ours.detach()), initiator=True, hello={})
        self.other = Channel(Pipe(theirs.detach()), initiator=False, hello={}, handler=self._serve)
        threading.Thread(target=self.other.start, daemon=True).start()
        self.channel.start(10)

    def _serve(self, stream: Stream) -> None:
        self.heard.append(stream.verb)
        if stream.verb == "long":
            stream.on_cancel(self.cancelled.set)
            self.told.wait(20)
        stream.result({"verb": stream.verb})

    def close(self) -> None:
        self.told.set()
        self.channel.close()
        self.other.close()


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Peer]:
    monkeypatch.setattr(standstill, "GRACE_SECONDS", 0.1)
    made = Peer()
    yield made
    made.close()


def test_requests_are_refused_and_the_spared_go_on(peer: Peer) -> None:
    waited, kept = peer.channel.open("long"), peer.channel.open("long", {"job": "1"})
    peer.channel.standstill.begin(REFUSAL, lambda stream: "job" in stream.params)
    with pytest.raises(RemoteError) as caught:
        waited.receive(10)
    assert caught.value.payload == REFUSAL
    with pytest.raises(RemoteError):
        peer.channel.open("quick")
    assert peer.heard == ["long", "long"]
    assert not peer.cancelled.is_set()
    peer.channel.standstill.end("clock", {})
    assert peer.cancelled.wait(10), "what was refused goes on unseen"
    assert peer.channel.call("quick", timeout=10) == {"verb": "quick"}
    assert peer.heard.index("clock") < peer.heard.index("quick")
    peer.told.set()
    assert kept.receive(10) == StreamResult({"verb": "long"})


def test_a_request_waits_a_moment_for_the_end(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standstill, "GRACE_SECONDS", 20.0)
    peer.channel.standstill.begin(REFUSAL, lambda _: True)
    threading.Timer(0.2, lambda: peer.channel.standstill.end("clock", {})).start()
    assert peer.channel.call("quick", timeout=10) == {"verb": "quick"}


def test_closing_ends_every_wait(peer: Peer) -> None:
    peer.channel.standstill.begin(REFUSAL, lambda _: True)
    threading.Timer(0.2, peer.channel.close).start()
    assert peer.channel.standstill.wait(20)


def test_no_deadline_of_the_wire_passes_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer whose bytes nobody takes for longer than it would wait for any other peer."""
    monkeypatch.setattr(channel_module, "SEND_SECONDS", 0.3)
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    reader = Channel(Pipe(theirs.detach()), initiator=False, hello={}, handler=lambda stream: stream.result({}))
    channel = Channel(Pipe(ours.detach()), initiator=True, hello={})
    channel.greet()
    stream = channel._begin("take", {})
    channel.standstill.begin(REFUSAL, lambda _: True)
    writer = threading.Thread(
        target=lambda: channel._write(channel_module.FrameKind.DATA, stream._number, bytes(200_000))
    )
    writer.start()
    writer.join(1.5)
    assert writer.is_alive()
    assert not channel.closed
    assert channel.standstill.seconds >= 1.0
    begun = time.monotonic()
    channel._pipe.patience = begun + 20
    reader.start(10)
    writer.join(10)
    assert not writer.is_alive()
    assert not channel.closed
    channel.close()
    reader.close()
