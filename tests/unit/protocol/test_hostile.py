"""A channel against hostile peers: a typed end, in time, in bounded memory, and never a traceback."""

from __future__ import annotations

import gc
import socket
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyro_mcp.protocol.channel import FRAME_COST, WINDOW, Channel, ChannelClosed, RemoteError, Stream, StreamResult
from pyro_mcp.protocol.frames import PREAMBLE, VERSION, FrameKind
from pyro_mcp.protocol.pipe import Pipe

from .conftest import HELLO, Rogue, closed_in, frame, json_frame

Pair = tuple[Channel, Rogue]


@pytest.fixture(autouse=True)
def quiet(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> object:
    """No thread may die of what a peer sent."""
    died: list[object] = []
    monkeypatch.setattr(threading, "excepthook", died.append)
    yield
    assert not died
    assert "Traceback" not in capfd.readouterr().err


def opened(channel: Channel, rogue: Rogue) -> Stream:
    stream = channel.open("exec", {})
    rogue.receive(FrameKind.OPEN)
    return stream


@pytest.mark.parametrize(
    "attack",
    [
        frame(0),
        frame(99),
        frame(FrameKind.DATA)[:4] + b"\xff\xff\xff\xff\xff",
        b"\xff" * 9,
        HELLO[len(PREAMBLE) :],
        HELLO,
        frame(FrameKind.PING, 0, b"payload"),
        json_frame(FrameKind.OPEN, 2, {"verb": "x", "params": {}}),
        json_frame(FrameKind.OPEN, 1, {"verb": "x", "params": {}}),
        json_frame(FrameKind.OPEN, 0, {"verb": "x", "params": {}}),
        json_frame(FrameKind.RESULT, 7, {}),
        json_frame(FrameKind.RESULT, 0, {}),
        json_frame(FrameKind.ERROR, 2, {}),
        frame(FrameKind.DATA, 9, b"\1x"),
        frame(FrameKind.END, 5),
        frame(FrameKind.CREDIT, 5, b"\0" * 9),
        frame(FrameKind.CANCEL, 1),
        frame(FrameKind.DATA, 1),
        frame(FrameKind.CREDIT, 1, b""),
        frame(FrameKind.CREDIT, 1, b"\xff" * 9),
        frame(FrameKind.CREDIT, 1, b"\0\0\0\1" + b"\0" * 5),
        frame(FrameKind.END, 1) * 2,
        frame(FrameKind.END, 1) + frame(FrameKind.DATA, 1, b"\1late"),
        frame(FrameKind.RESULT, 1, b"not json"),
        frame(FrameKind.RESULT, 1, b"[]"),
        frame(FrameKind.EVENT, 1, b'{"a":' * 10000),
        frame(FrameKind.RESULT, 1, b'{"a":' + b"9" * 100000 + b"}"),
        frame(FrameKind.ERROR, 1, b'{"message":"\xff"}'),
    ],
)
def test_a_broken_rule_ends_the_connection(pair: Pair, attack: bytes) -> None:
    channel, rogue = pair
    stream = opened(channel, rogue)
    rogue.send(attack)
    with pytest.raises(ChannelClosed):
        list(stream.messages())
    assert channel.reason.startswith("protocol violation")
    assert channel.reason.isprintable()


def test_duplicate_and_late_answers_are_dropped(pair: Pair) -> None:
    channel, rogue = pair
    stream = opened(channel, rogue)
    rogue.send(
        json_frame(FrameKind.RESULT, 1, {"n": 1})
        + json_frame(FrameKind.RESULT, 1, {"n": 2})
        + frame(FrameKind.DATA, 1, b"\1x")
    )
    assert list(stream.messages())[-1].value == {"n": 1}  # type: ignore[union-attr]
    second = opened(channel, rogue)
    rogue.send(json_frame(FrameKind.RESULT, 1, {"n": 3}) + json_frame(FrameKind.RESULT, 3, {"n": 4}))
    assert second.receive(5).value == {"n": 4}  # type: ignore[union-attr]
    assert not channel.closed


def test_an_error_of_any_shape_is_a_remote_error(pair: Pair) -> None:
    channel, rogue = pair
    for payload in ({}, {"message": ["x"]}, {"code": {}, "message": "m" * 100_000}, {"hint": 1}):
        stream = opened(channel, rogue)
        rogue.send(json_frame(FrameKind.ERROR, stream._number, payload))
        with pytest.raises(RemoteError) as caught:
            stream.receive(5)
        assert len(str(caught.value)) <= 4096


@pytest.mark.parametrize("cut", [1, 5, 9, 15])
def test_truncation_then_silence_ends_at_the_frame_deadline(pair: Pair, cut: int) -> None:
    channel, rogue = pair
    stream = opened(channel, rogue)
    rogue.send(frame(FrameKind.DATA, 1, b"\1" + b"x" * 100)[:cut])
    begun = time.monotonic()
    with pytest.raises(ChannelClosed, match="did not finish"):
        stream.receive(30)
    assert time.monotonic() - begun > 0.3


def test_a_byte_at_a_time_does_not_extend_the_deadline(pair: Pair) -> None:
    channel, rogue = pair
    opened(channel, rogue)
    begun = time.monotonic()
    # It would take 50 s.
    for byte in frame(FrameKind.DATA, 1, b"\1" + b"x" * 1000):
        if channel.closed:
            break
        rogue.send(bytes((byte,)))
        time.sleep(0.05)
    assert channel.closed
    assert time.monotonic() - begun < 30


def test_idle_is_no_offence(pair: Pair) -> None:
    channel, rogue = pair
    rogue.send(frame(FrameKind.PING))
    rogue.receive(FrameKind.PONG)
    assert not closed_in(channel, 0.8)


@pytest.mark.parametrize(
    ("hello", "why"),
    [
        (json_frame(FrameKind.HELLO, 0, {"version": VERSION + 1}), "version"),
        (json_frame(FrameKind.HELLO, 0, {"version": "x" * 10000}), "version"),
        (json_frame(FrameKind.HELLO, 0, {}), "version"),
        (frame(FrameKind.PING), "before HELLO"),
        (frame(FrameKind.HELLO, 0, b"\xff"), "not JSON"),
    ],
)
def test_a_wrong_hello_is_refused(hello: bytes, why: str) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        Rogue(theirs).send(PREAMBLE + hello)
        channel = Channel(Pipe(ours.detach()), initiator=True, hello={})
        with pytest.raises(ChannelClosed, match=why):
            channel.start(5)


def test_silence_instead_of_hello_times_out() -> None:
    ours, theirs = socket.socketpair()
    with theirs, pytest.raises(TimeoutError):
        Channel(Pipe(ours.detach()), initiator=True, hello={}).start(0.2)


@pytest.mark.parametrize(
    "unit",
    [
        frame(FrameKind.DATA, 1, b"\1"),
        frame(FrameKind.DATA, 1, b"\1x"),
        frame(FrameKind.EVENT, 1, b"{}"),
        frame(FrameKind.PONG),
    ],
    ids=["empty", "byte", "event", "pong"],
)
def test_a_million_tiny_frames_cost_bounded_memory(pair: Pair, unit: bytes) -> None:
    channel, rogue = pair
    opened(channel, rogue)
    gc.collect()
    tracemalloc.start()
    for _ in range(100):
        rogue.send(unit * 10_000)
        if channel.closed:
            break
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 * 1024 * 1024
    assert channel.closed == (unit[8] != FrameKind.PONG) or closed_in(channel, 5)


def test_a_flood_of_pings_from_a_peer_that_never_reads_blocks_only_its_own_channel(pair: Pair) -> None:
    channel, rogue = pair
    rogue.socket.settimeout(1)
    flood = frame(FrameKind.PING) * 10_000_000
    with pytest.raises(TimeoutError):
        rogue.socket.sendall(flood)
    closing = threading.Thread(target=channel.close)
    closing.start()
    closing.join(30)
    assert not closing.is_alive()


def test_unread_data_stops_at_the_window(pair: Pair) -> None:
    channel, rogue = pair
    stream = opened(channel, rogue)
    chunk = 65536
    for _ in range(WINDOW // (chunk + FRAME_COST)):
        rogue.send(frame(FrameKind.DATA, 1, b"\1" + b"x" * chunk))
    rogue.send(frame(FrameKind.PING))
    rogue.receive(FrameKind.PONG)
    assert not channel.closed
    rogue.send(frame(FrameKind.DATA, 1, b"\1" + b"x" * chunk))
    assert closed_in(channel, 5)
    assert "flow control" in channel.reason
    assert stream.receive(1)


def test_too_many_requests_at_once_are_refused_one_by_one(connect: Callable[..., tuple[Channel, Channel]]) -> None:
    release = threading.Event()

    def handler(stream: Stream) -> None:
        release.wait(60)
        stream.result({})

    client, _ = connect(handler)
    streams = [client.open("wait") for _ in range(300)]
    for stream in streams[256:]:
        with pytest.raises(RemoteError) as caught:
            stream.receive(30)
        assert caught.value.payload["code"] == "capacity"
    release.set()
    for stream in streams[:256]:
        assert stream.receive(30) == StreamResult({})


pieces = st.one_of(
    st.builds(frame, st.sampled_from(list(FrameKind)), st.integers(0, 4), st.binary(max_size=40)),
    st.builds(
        json_frame, st.sampled_from(list(FrameKind)), st.integers(0, 4), st.dictionaries(st.text(), st.integers())
    ),
    st.binary(max_size=20),
)


@pytest.mark.parametrize("victim_initiates", [True, False])
@settings(deadline=None, max_examples=150)
@given(attack=st.lists(pieces, max_size=12), greet=st.booleans())
def test_any_sequence_of_frames_ends_or_is_survived(victim_initiates: bool, attack: list[bytes], greet: bool) -> None:
    ours, theirs = socket.socketpair()

    def handler(stream: Stream) -> None:
        stream.result({"echo": stream.verb})

    victim = Channel(Pipe(ours.detach()), initiator=victim_initiates, hello={}, handler=handler, frame_seconds=0.2)
    with theirs:
        rogue = Rogue(theirs)
        rogue.send((HELLO if greet else PREAMBLE) + b"".join(attack))
        theirs.shutdown(socket.SHUT_WR)
        try:
            victim.start(5)
            stream = victim.open("x")
            stream.receive(5)
        except (ChannelClosed, RemoteError):
            pass
        assert closed_in(victim, 5)
        assert victim.reason.isprintable(), victim.reason


def test_python_refuses_huge_integers() -> None:
    """What `Frame.json` relies on."""
    assert 0 < sys.get_int_max_str_digits() <= 4300


def test_a_peer_that_begins_anew_on_the_same_wire_loses_nothing_it_says() -> None:
    """A virtio port does not always show the guest that one node went and another came."""
    ours, theirs = socket.socketpair()
    again = ours.dup()
    with theirs:
        rogue = Rogue(theirs)
        rogue.send(HELLO)
        first = Channel(Pipe(ours.detach()), initiator=False, hello={})
        first.start(5)
        rogue.receive(FrameKind.HELLO)
        rogue.begin_anew()
        rogue.send(HELLO + frame(FrameKind.PING))
        assert closed_in(first, 5)
        assert first.leftover.startswith(PREAMBLE)
        second = Channel(Pipe(again.detach()), initiator=False, hello={}, backlog=first.leftover)
        assert second.start(5)["role"] == "hostile"
        rogue.receive(FrameKind.PONG)
        second.close()
        assert second.leftover == b""
