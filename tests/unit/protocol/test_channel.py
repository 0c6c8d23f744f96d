"""Two well-behaved channels."""

from __future__ import annotations

import contextlib
import fcntl
import os
import termios
import threading
import time
from collections.abc import Callable

import pytest

from pyro_mcp.protocol import channel
from pyro_mcp.protocol.channel import Channel, ChannelClosed, Data, End, Event, RemoteError, Stream, StreamResult
from pyro_mcp.protocol.frames import FrameKind
from pyro_mcp.protocol.pipe import Pipe, PipeClosed
from pyro_mcp.protocol.stream import BODY_MAX, FRAME_COST, NOTICE_MAX, WINDOW
from pyro_mcp.protocol.workers import Workers

from .conftest import Rogue, frame, json_frame

Connect = Callable[..., tuple[Channel, Channel]]


def echo(stream: Stream) -> None:
    for message in iter(stream.receive, End()):
        if isinstance(message, End):
            break
        assert isinstance(message, Data)
        stream.send(message.data, tag=message.tag)
    stream.result({"params": stream.params})


def test_call_and_result(connect: Connect) -> None:
    client, _ = connect(lambda stream: stream.result({"verb": stream.verb, **stream.params}))
    assert client.call("greet", {"name": "grüß"}, timeout=5) == {"verb": "greet", "name": "grüß"}


def test_data_both_ways_larger_than_every_window(connect: Connect) -> None:
    client, _ = connect(echo)
    sent = os.urandom(8 * 1024 * 1024)
    stream = client.open("echo", {"n": 1})
    threading.Thread(target=lambda: (stream.send(sent, tag=1), stream.end())).start()
    got = b""
    for message in stream.messages():
        if isinstance(message, Data):
            got += message.data
        elif isinstance(message, StreamResult):
            assert message.value == {"params": {"n": 1}}
    assert got == sent


@pytest.mark.parametrize("size", [0, 1, 4096, BODY_MAX])
def test_a_request_with_its_whole_input_is_one_message(connect: Connect, size: int) -> None:
    client, server = connect(lambda stream: stream.result({"size": _input_size(stream)}))
    before = server.heard
    stream = client.open("count", {"n": 1}, bytes(size))
    assert stream.receive(30) == StreamResult({"size": size})
    if size <= 4096:
        assert server.heard == before + 1
    with pytest.raises(ChannelClosed):
        stream.send(b"more")


def _input_size(stream: Stream) -> int:
    size = 0
    while isinstance(message := stream.receive(30), Data):
        size += len(message.data)
    return size


def test_tiny_pieces_to_a_slow_reader_wait_for_it(connect: Connect) -> None:
    """Unbuffered output to a stalled consumer: the sender waits, and the connection lives."""
    sent = threading.Event()

    def handler(stream: Stream) -> None:
        for _ in range(100_000):
            stream.send(b"x", tag=1)
        sent.set()
        stream.result({})

    client, _ = connect(handler)
    stream = client.open("drip")
    assert not sent.wait(1)
    assert sum(len(message.data) for message in stream.messages() if isinstance(message, Data)) == 100_000


def test_errors_travel_and_surprises_stay_home(connect: Connect, capfd: pytest.CaptureFixture[str]) -> None:
    class Typed(Exception):
        def to_wire(self) -> dict[str, object]:
            return {"code": "not_found", "message": "no such thing", "hint": None}

    def handler(stream: Stream) -> None:
        raise Typed if stream.verb == "typed" else RuntimeError("secret detail")

    client, _ = connect(handler)
    with pytest.raises(RemoteError, match="no such thing"):
        client.call("typed", timeout=5)
    with pytest.raises(RemoteError) as caught:
        client.call("surprise", timeout=5)
    assert caught.value.payload["code"] == "internal"
    assert "secret" not in str(caught.value)
    assert "secret detail" in capfd.readouterr().err


def test_a_handler_without_an_answer_answers_internal(connect: Connect) -> None:
    client, _ = connect(lambda stream: None)
    with pytest.raises(RemoteError, match="no answer"):
        client.call("forgetful", timeout=5)


def test_cancel_and_watch(connect: Connect) -> None:
    told = threading.Event()

    def handler(stream: Stream) -> None:
        stream.watch(told.set)
        while not stream.cancelled:
            told.wait(5)
            told.clear()
        stream.result({"cancelled": True})

    client, _ = connect(handler)
    stream = client.open("wait")
    stream.cancel()
    assert stream.receive(5) == StreamResult({"cancelled": True})


def test_room_and_try_receive_never_wait(connect: Connect) -> None:
    seen: dict[str, object] = {}
    proceed = threading.Event()

    def handler(stream: Stream) -> None:
        seen["empty"] = stream.try_receive()
        begun = time.monotonic()
        while stream.room:
            stream.send(b"x" * stream.room)
        seen["seconds"] = time.monotonic() - begun
        proceed.set()
        stream.result({})

    client, _ = connect(handler)
    stream = client.open("fill")
    assert proceed.wait(5)
    assert seen["empty"] is None
    assert list(stream.messages())[-1] == StreamResult({})


def test_the_end_of_one_side_ends_the_other(connect: Connect) -> None:
    cancelled = threading.Event()

    def handler(stream: Stream) -> None:
        stream.on_cancel(cancelled.set)
        stream.receive()

    client, server = connect(handler)
    stream = client.open("wait")
    client.ping()
    client.close("enough")
    with pytest.raises(ChannelClosed, match="enough"):
        stream.receive(5)
    assert cancelled.wait(5)
    with pytest.raises(ChannelClosed):
        client.open("more")
    assert server.closed


def test_a_farewell_is_the_answer_to_all_that_the_peer_waits_for(connect: Connect) -> None:
    ended = threading.Event()
    began = threading.Semaphore(0)

    def handler(stream: Stream) -> None:
        stream.on_cancel(ended.set)
        began.release()
        assert ended.wait(10)

    client, node = connect(handler)
    streams = [client.open("a"), client.open("b")]
    assert all(began.acquire(timeout=10) for _ in streams)
    node.close("leaving", {"code": "node_unavailable", "message": "it was stopped"})
    for stream in streams:
        with pytest.raises(RemoteError) as caught:
            stream.receive(10)
        assert caught.value.payload["message"] == "it was stopped"
    assert ended.wait(10), "what it did for them is cancelled"


def test_ping_answers_while_a_handler_is_busy(connect: Connect) -> None:
    busy, over = threading.Event(), threading.Event()
    client, _ = connect(lambda stream: stream.result({"waited": busy.set() or over.wait(60)}))
    stream = client.open("wait")
    assert busy.wait(30)
    assert client.ping(30) > 0
    assert stream.try_receive() is None
    over.set()
    assert stream.receive(30) == StreamResult({"waited": True})


def test_events_carry_json(connect: Connect) -> None:
    def handler(stream: Stream) -> None:
        stream.event({"progress": 0.5})
        stream.result({})

    client, _ = connect(handler)
    assert list(client.open("work").messages()) == [Event({"progress": 0.5}), StreamResult({})]


def test_call_timeout_cancels(connect: Connect) -> None:
    cancelled = threading.Event()

    def handler(stream: Stream) -> None:
        stream.on_cancel(cancelled.set)
        cancelled.wait(5)
        stream.result({})

    client, _ = connect(handler)
    with pytest.raises(TimeoutError):
        client.call("wait", timeout=0.1)
    assert cancelled.wait(5)


def test_no_thread_or_descriptor_stays(connect: Connect) -> None:
    threads, fds = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        client, server = connect(lambda stream: stream.result({}))
        client.call("x", timeout=5)
        client.close()
        server.close()
    deadline = time.monotonic() + 5
    while threading.active_count() > threads and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= threads
    assert len(os.listdir("/proc/self/fd")) <= fds


@pytest.mark.parametrize(("read_piece", "write_piece"), [(0, 0), (4096, 32768), (700, 500)])
def test_a_pipe_moves_bytes_whatever_its_pieces(read_piece: int, write_piece: int) -> None:
    read_fd, write_fd = os.pipe()
    pipe = Pipe(read_fd, write_fd, read_piece=read_piece, write_piece=write_piece)
    sent = os.urandom(300_000)
    writer = threading.Thread(target=pipe.write_all, args=([sent[:100], b"", sent[100:]],))
    writer.start()
    got = bytearray()
    buffer = memoryview(bytearray(65536))
    while len(got) < len(sent):
        got += buffer[: pipe.read_into(buffer, deadline=time.monotonic() + 5)]
    writer.join()
    assert got == sent
    with pytest.raises(TimeoutError):
        pipe.read_into(buffer, deadline=time.monotonic() + 0.05)
    pipe.close()
    with pytest.raises(PipeClosed):
        pipe.read_into(buffer)


def test_a_request_that_cannot_be_sent_yet_holds_up_nothing_that_comes(pair: tuple[Channel, Rogue]) -> None:
    """Two peers that both open a stream while neither direction has room must go on reading, or both stand still."""
    channel, rogue = pair
    early = channel.open("early")
    sending = [
        threading.Thread(target=attempt)
        for attempt in (
            lambda: channel.open("large", {"x": "x" * 1_000_000}),
            lambda: channel.ping(30),
        )
    ]
    for thread in sending:
        thread.start()
    # Nobody reads: the first fills the pipe and the second stands behind it.
    until_full(rogue)
    rogue.send(json_frame(FrameKind.RESULT, 1, {"come": "through"}))
    assert early.receive(5) == StreamResult({"come": "through"})
    assert all(thread.is_alive() for thread in sending)
    for kind in (FrameKind.OPEN, FrameKind.OPEN, FrameKind.PING):
        rogue.receive(kind)
    rogue.send(frame(FrameKind.PONG))
    for thread in sending:
        thread.join(5)
        assert not thread.is_alive()


def until_full(rogue: Rogue) -> None:
    """Wait until no more arrives at a peer that does not read."""
    waiting, before = -1, -2
    while waiting != before:
        time.sleep(0.1)
        before, waiting = waiting, int.from_bytes(fcntl.ioctl(rogue.socket, termios.FIONREAD, b"\0\0\0\0"), "little")


def test_without_a_thread_to_spare_a_request_is_refused_and_the_connection_lives(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a guest whose programs have forked until nothing more could be started."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    client, _ = connect(lambda stream: stream.result({}))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RemoteError) as caught:
            client.call("late", timeout=5)
        assert caught.value.payload["code"] == "capacity"
    assert client.call("later", timeout=5) == {}


class OnTheSpot(Workers):
    """Runs a job where it is submitted, so that what comes next on the wire comes after it."""

    def submit(self, job: Callable[[], None]) -> None:
        job()


def test_a_request_that_arrived_with_the_end_is_not_begun(pair: tuple[Channel, Rogue]) -> None:
    """Nobody could cancel it any more, and what its handler waits for would never come."""
    victim, rogue = pair
    begun, ended = [], threading.Event()

    def handler(stream: Stream) -> None:
        begun.append(stream.verb)
        victim.close("enough")

    victim._handler, victim._workers = handler, OnTheSpot()
    reader = next(thread for thread in threading.enumerate() if thread.name == "channel-reader")
    victim.on_close(lambda _: ended.set())
    opened = (json_frame(FrameKind.OPEN, number, {"verb": str(number), "params": {}}) for number in (2, 4))
    rogue.send(b"".join(opened))
    assert ended.wait(5)
    reader.join(5)
    assert begun == ["2"]


def test_a_cancellation_that_came_first_is_told_once(connect: Connect) -> None:
    told: list[str] = []
    cancelled, told_late, closed = threading.Event(), threading.Event(), threading.Event()

    def handler(stream: Stream) -> None:
        stream.on_cancel(cancelled.set)
        cancelled.wait(5)
        stream.on_cancel(lambda: told.append("cancelled"))
        told_late.set()
        closed.wait(5)

    client, server = connect(handler)
    server.on_close(lambda _: closed.set())
    client.open("work").cancel()
    assert told_late.wait(5)
    client.close()
    assert closed.wait(5)
    assert told == ["cancelled"]


def test_the_largest_notice_finds_room_whatever_was_read_before(connect: Connect) -> None:
    """What a reader has taken comes back in quarters, so the last of it may never do."""
    largest = NOTICE_MAX - FRAME_COST - len('{"x":""}')

    def handler(stream: Stream) -> None:
        stream.send(bytes(WINDOW // 4 - FRAME_COST - 1))
        stream.event({"x": "x" * largest})
        with pytest.raises(ValueError, match="a notice"):
            stream.event({"x": "x" * (largest + 1)})
        stream.result({})

    client, _ = connect(handler)
    kinds = []
    stream = client.open("tell")
    while not kinds or kinds[-1] is not StreamResult:
        kinds.append(type(stream.receive(5)))
    assert kinds == [Data, Event, StreamResult]


def test_streams_that_one_side_holds_leave_the_others_room(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "MAX_STREAMS", 4)
    go = threading.Event()

    def handler(stream: Stream) -> None:
        go.wait(30)
        stream.result({})

    client, server = connect(handler)
    client._handler = handler
    theirs = [client.open("wait") for _ in range(4)]
    own = [server.open("wait") for _ in range(4)]
    with pytest.raises(RemoteError) as caught:
        client.call("wait", timeout=20)
    assert caught.value.payload["code"] == "capacity"
    go.set()
    for stream in theirs + own:
        assert list(stream.messages()) == [StreamResult({})]
    deadline = time.monotonic() + 20
    while server._serving:
        assert time.monotonic() < deadline, "what is over takes no room"
    assert client.call("wait", timeout=20) == {}


def test_a_peer_in_a_hurry_is_served_by_no_more_threads_than_it_may_have_requests(
    pair: tuple[Channel, Rogue], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opened faster than threads can start, each answered at once: those that were done did not get to say so."""
    victim, rogue = pair
    served = 0

    def handler(stream: Stream) -> None:
        nonlocal served
        served += 1
        stream.result({})

    victim._handler = handler

    def hear() -> None:
        with contextlib.suppress(OSError):
            while rogue.socket.recv(65536):
                pass

    threading.Thread(target=hear, daemon=True).start()
    before = threading.active_count()
    most = 0
    for number in range(2, 12_002, 2):
        rogue.send(json_frame(FrameKind.OPEN, number, {"verb": "hurry", "params": {}}))
        most = max(most, threading.active_count() - before)
    assert served
    assert not victim.closed
    assert most <= channel.MAX_STREAMS + 8
