"""Large pieces over a disk that both sides share: real files, real channels, and peers that lie about both."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyro_mcp.machines import exchange
from pyro_mcp.machines.exchange import HostExchange
from pyro_mcp.protocol.channel import (
    WIDE,
    WIDE_STREAMS,
    WINDOW,
    Channel,
    ChannelClosed,
    Data,
    End,
    Stream,
    StreamResult,
)
from pyro_mcp.protocol.exchange import DISK_BYTES, HALF_BYTES, PLACE, SLOT_BYTES, SLOTS
from pyro_mcp.protocol.frames import PREAMBLE, VERSION, FrameKind
from pyro_mcp.protocol.pipe import Buffer, Pipe

from .conftest import Rogue, closed_in, frame, json_frame

HELLO = PREAMBLE + json_frame(FrameKind.HELLO, 0, {"version": VERSION, "exchange": DISK_BYTES, "window": WIDE})


class FarExchange(HostExchange):
    """The other side's end of the same file."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._mine, self._theirs = self._theirs, self._mine


class CountingPipe(Pipe):
    """Counts what goes over the wire."""

    sent = 0

    def write_all(self, parts: list[Buffer], *, deadline: float | None = None) -> None:  # type: ignore[override]
        self.sent += sum(map(len, parts))
        super().write_all(parts, deadline=deadline)


Connect = Callable[..., tuple[Channel, Channel]]


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    exchange.make(tmp_path)
    return tmp_path


@pytest.fixture
def connect(disk: Path) -> Iterator[Connect]:
    made: list[Channel] = []

    def make(handler: Callable[[Stream], None], *, near: bool = True, far: bool = True) -> tuple[Channel, Channel]:
        ours, theirs = socket.socketpair()
        client = Channel(
            CountingPipe(ours.detach()), initiator=True, hello={}, exchange=HostExchange(disk) if near else None
        )
        server = Channel(
            CountingPipe(theirs.detach()),
            initiator=False,
            hello={},
            handler=handler,
            exchange=FarExchange(disk) if far else None,
        )
        made.extend((client, server))
        threading.Thread(target=server.serve, daemon=True).start()
        client.start(10)
        return client, server

    yield make
    for channel in made:
        channel.close()


@pytest.fixture
def rogue(disk: Path) -> Iterator[tuple[Channel, Rogue]]:
    """A node's channel with an exchange, and a guest without manners."""
    ours, theirs = socket.socketpair()
    peer = Rogue(theirs)
    peer.send(HELLO)
    channel = Channel(Pipe(ours.detach()), initiator=True, hello={}, exchange=HostExchange(disk))
    channel.start(5)
    yield channel, peer
    channel.close()
    theirs.close()


def sent(channel: Channel) -> int:
    pipe = channel._pipe
    assert isinstance(pipe, CountingPipe)
    return pipe.sent


def allocated(disk: Path) -> int:
    return (disk / exchange.NAME).stat().st_blocks * 512


def echo(stream: Stream) -> None:
    for message in stream.messages():
        if isinstance(message, End):
            break
        assert isinstance(message, Data)
        stream.send(message.data, 1)
    stream.result({})


def swallow(stream: Stream) -> None:
    digest = hashlib.sha256()
    while not isinstance(message := stream.receive(), End):
        assert isinstance(message, Data)
        digest.update(message.data)
    stream.result({"sha256": digest.hexdigest()})


def feed(stream: Stream, data: bytes) -> threading.Thread:
    def run() -> None:
        try:
            stream.send(data)
            stream.end()
        except ChannelClosed:
            pass

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def collected(stream: Stream) -> bytes:
    return b"".join(bytes(message.data) for message in stream.messages() if isinstance(message, Data))


def placed(slot: int, length: int, tag: int = 1) -> bytes:
    return frame(FrameKind.PLACED, 1, PLACE.pack(slot, length, tag))


@pytest.mark.parametrize("size", [1, 32767, 32768, 262145, SLOT_BYTES, SLOT_BYTES + 1, 33 * SLOT_BYTES + 77])
def test_what_goes_in_comes_out(connect: Connect, size: int) -> None:
    client, _ = connect(echo)
    data = os.urandom(size)
    stream = client.open("echo")
    feed(stream, data)
    assert hashlib.sha256(collected(stream)).digest() == hashlib.sha256(data).digest()


def test_large_pieces_leave_the_wire_to_others(connect: Connect) -> None:
    client, server = connect(echo)
    stream = client.open("echo")
    feed(stream, os.urandom(64 * SLOT_BYTES))
    assert len(collected(stream)) == 64 * SLOT_BYTES
    assert sent(client) < 16384
    assert sent(server) < 16384


@pytest.mark.parametrize(("near", "far"), [(True, False), (False, True), (False, False)])
def test_without_a_disk_on_both_sides_all_goes_over_the_wire(connect: Connect, near: bool, far: bool) -> None:
    client, _ = connect(echo, near=near, far=far)
    data = os.urandom(5 * SLOT_BYTES)
    stream = client.open("echo")
    feed(stream, data)
    assert collected(stream) == data
    assert sent(client) > len(data)


def test_the_space_is_given_back_after_each_transfer(connect: Connect, disk: Path) -> None:
    client, server = connect(echo)
    for _ in range(3):
        stream = client.open("echo")
        feed(stream, os.urandom(20 * SLOT_BYTES))
        collected(stream)
        client.ping()
        server.ping()
        assert allocated(disk) == 0


def test_a_transfer_that_is_cancelled_gives_back_what_it_had(connect: Connect, disk: Path) -> None:
    began, release = threading.Event(), threading.Event()

    def handler(stream: Stream) -> None:
        if stream.verb == "echo":
            echo(stream)
            return
        stream.on_cancel(release.set)
        began.set()
        release.wait(30)
        stream.error({"code": "cancelled", "message": "cancelled"})

    client, server = connect(handler)
    for _ in range(SLOTS * 2):
        began.clear()
        release.clear()
        stream = client.open("stall")
        feeder = feed(stream, os.urandom(4 * SLOT_BYTES))
        assert began.wait(30)
        stream.cancel()
        with pytest.raises(Exception, match="cancelled"):
            collected(stream)
        feeder.join(30)
        assert not feeder.is_alive()
    before = sent(client)
    stream = client.open("echo")
    feed(stream, bytes(8 * SLOT_BYTES))
    assert len(collected(stream)) == 8 * SLOT_BYTES
    assert sent(client) - before < 16384, "slots were lost, and the transfer went over the wire"
    client.ping()
    server.ping()
    assert allocated(disk) == 0


def test_streams_beyond_the_slots_go_over_the_wire_and_all_arrive(connect: Connect) -> None:
    client, _ = connect(swallow)
    data = os.urandom(6 * SLOT_BYTES)
    streams = [client.open("swallow") for _ in range(24)]
    for stream in streams:
        feed(stream, data)
    for stream in streams:
        answer = list(stream.messages())[-1]
        assert isinstance(answer, StreamResult)
        assert answer.value["sha256"] == hashlib.sha256(data).hexdigest()


def test_a_reader_who_does_not_read_stalls_itself_only(connect: Connect) -> None:
    release = threading.Event()

    def handler(stream: Stream) -> None:
        if stream.verb == "stall":
            release.wait(60)
        swallow(stream)

    client, _ = connect(handler)
    stalled = [client.open("stall") for _ in range(4)]
    feeders = [feed(stream, bytes(8 * SLOT_BYTES)) for stream in stalled]
    stream = client.open("swallow")
    feed(stream, bytes(32 * SLOT_BYTES))
    assert isinstance(list(stream.messages())[-1], StreamResult)
    assert all(feeder.is_alive() for feeder in feeders)
    release.set()
    for stream in stalled:
        assert isinstance(list(stream.messages())[-1], StreamResult)


def test_a_full_disk_of_the_host_sends_all_over_the_wire(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: HostExchange, data: memoryview, offset: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(HostExchange, "_store", full)
    client, _ = connect(echo)
    data = os.urandom(3 * SLOT_BYTES)
    stream = client.open("echo")
    feed(stream, data)
    assert collected(stream) == data


# -- a guest that lies


@pytest.mark.parametrize(
    "lie",
    [
        placed(SLOTS, 65536),
        placed(255, 65536),
        placed(0, 0),
        placed(0, SLOT_BYTES + 1),
        placed(0, 0xFFFFFFFF),
        frame(FrameKind.PLACED, 1, b"\0\0"),
        frame(FrameKind.PLACED, 1, b""),
        frame(FrameKind.PLACED, 9, PLACE.pack(0, 65536, 1)),
        frame(FrameKind.PLACED, 0, PLACE.pack(0, 65536, 1)),
        placed(0, 65536) * 2,
        frame(FrameKind.END, 1) + placed(0, 65536),
        placed(0, SLOT_BYTES),
        frame(FrameKind.TAKEN, 0, b"\0"),
        frame(FrameKind.TAKEN, 0, b""),
        frame(FrameKind.TAKEN, 0, b"\xff"),
        frame(FrameKind.TAKEN, 0, bytes(range(SLOTS)) * 1000),
    ],
    ids=lambda lie: lie[:24].hex(),
)
def test_a_guest_that_lies_about_places_is_cut_off(rogue: tuple[Channel, Rogue], lie: bytes) -> None:
    channel, peer = rogue
    channel.open("exec")
    peer.receive(FrameKind.OPEN)
    peer.send(lie)
    assert closed_in(channel, 5)
    assert "protocol violation" in channel.reason


def test_a_piece_given_back_twice_ends_the_connection(rogue: tuple[Channel, Rogue]) -> None:
    channel, peer = rogue
    stream = channel.open("exec")
    stream.send(bytes(65536))
    slot = peer.receive(FrameKind.PLACED).payload[:1]
    peer.send(frame(FrameKind.TAKEN, 0, slot) * 2)
    assert closed_in(channel, 5)
    assert "TAKEN" in channel.reason


def test_a_disk_that_is_cut_short_ends_the_connection(rogue: tuple[Channel, Rogue], disk: Path) -> None:
    channel, peer = rogue
    channel.open("exec")
    os.truncate(disk / exchange.NAME, HALF_BYTES + 4096)
    peer.send(placed(0, 65536))
    assert closed_in(channel, 5)
    assert "cannot be read" in channel.reason


def test_what_was_read_stays_whatever_is_written_over_it(rogue: tuple[Channel, Rogue], disk: Path) -> None:
    channel, peer = rogue
    stream = channel.open("exec")
    with (disk / exchange.NAME).open("r+b", buffering=0) as file:
        os.pwrite(file.fileno(), b"true" * 16384, HALF_BYTES)
        peer.send(placed(0, 65536) + frame(FrameKind.PING))
        peer.receive(FrameKind.PONG)
        os.pwrite(file.fileno(), b"lies" * 16384, HALF_BYTES)
    assert stream.receive(5) == Data(1, b"true" * 16384)


def test_a_guest_that_takes_nothing_costs_its_slots_only(rogue: tuple[Channel, Rogue], disk: Path) -> None:
    channel, peer = rogue
    for _ in range(SLOTS + 3):
        stream = channel.open("exec")
        stream.send(bytes(65536))
    assert len(peer.receive(FrameKind.DATA).payload) == 65536
    assert allocated(disk) <= HALF_BYTES


def test_pieces_for_a_stream_that_was_left_are_not_read(
    rogue: tuple[Channel, Rogue], monkeypatch: pytest.MonkeyPatch
) -> None:
    channel, peer = rogue
    channel.open("exec").leave()
    read: list[int] = []
    monkeypatch.setattr(HostExchange, "_load", lambda self, length, offset: read.append(length) or b"")
    peer.send(placed(0, 65536) + frame(FrameKind.PING))
    assert peer.receive(FrameKind.TAKEN).payload == b"\0"
    assert not read


# -- windows


def test_only_readers_get_a_wide_window_and_few_at_a_time(connect: Connect) -> None:
    client, _ = connect(swallow, near=False)
    widened = []
    for _ in range(WIDE_STREAMS + 3):
        stream = client.open("swallow")
        stream.send(bytes(WINDOW * 2))
        # The handler has read all but what was sent last: by now it has granted what it ever will.
        client.ping()
        widened.append(stream)
    assert sum(stream._max == WIDE for stream in widened) <= WIDE_STREAMS
    assert any(stream._max == WIDE for stream in widened)
    for stream in widened:
        stream.end()
        assert isinstance(list(stream.messages())[-1], StreamResult)
    stream = client.open("swallow")
    stream.send(bytes(WIDE * 2))
    assert stream._max == WIDE, "what ended did not make room"
    stream.end()


def test_an_older_peer_is_granted_no_more_than_it_knows() -> None:
    ours, theirs = socket.socketpair()
    peer = Rogue(theirs)
    peer.send(PREAMBLE + json_frame(FrameKind.HELLO, 0, {"version": VERSION}))
    channel = Channel(Pipe(ours.detach()), initiator=True, hello={})
    channel.start(5)
    stream = channel.open("exec")
    for _ in range(4):
        peer.send(frame(FrameKind.DATA, 1, b"\1" + bytes(65536)))
        stream.receive(5)
    granted = int.from_bytes(peer.receive(FrameKind.CREDIT).payload[:4], "big")
    assert granted < WINDOW
    channel.close()
    theirs.close()
