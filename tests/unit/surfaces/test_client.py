"""The client against a real peer on a real socket, speaking the node's protocol."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from peerlab import Handler, Peer

from pyro_mcp.errors import Cancelled, InvalidArgument, NodeUnavailable, NotFound, ProtocolError
from pyro_mcp.operations.inputs import as_bytes
from pyro_mcp.protocol.channel import Data, End, Stream
from pyro_mcp.settings import Settings
from pyro_mcp.surfaces.client import Callbacks, Client


@pytest.fixture
def peer_of(tmp_path: Path) -> Iterator[Callable[[Handler], tuple[Client, Peer]]]:
    made: list[tuple[Client, Peer]] = []

    def make(handler: Handler) -> tuple[Client, Peer]:
        peer = Peer(handler)
        client = Client(Settings.load({}, state_dir=tmp_path), peer.connect)
        made.append((client, peer))
        return client, peer

    yield make
    for client, peer in made:
        client.close()
        peer.close()


def test_output_progress_and_notices_reach_the_listener_in_order(peer_of: Any) -> None:
    def handler(stream: Stream) -> None:
        stream.event({"progress": "booting", "fraction": 7})
        stream.event({"notice": "slow"})
        stream.event({"unknown": 1})
        stream.send(b"out", 1)
        stream.send(b"err", 2)
        stream.result({"done": stream.params["x"]})

    client, _ = peer_of(handler)
    heard: list[Any] = []
    callbacks = Callbacks(
        lambda message, share: heard.append((message, share)), heard.append, lambda tag, data: heard.append((tag, data))
    )
    assert client.begin("verb", {"x": 5}).wait(callbacks) == {"done": 5}
    assert heard == [("booting", 1.0), "slow", (1, b"out"), (2, b"err")]


def test_input_of_any_kind_arrives_whole(peer_of: Any) -> None:
    def handler(stream: Stream) -> None:
        got = b""
        while not isinstance(message := stream.receive(10), End):
            assert isinstance(message, Data)
            got += message.data
        stream.result({"length": len(got)})

    client, _ = peer_of(handler)
    for source in (b"x" * 3_000_000, [b"a", b"bc"], iter([b"xyz"])):
        expected = len(source) if isinstance(source, bytes) else 3
        assert client.begin("verb", {}, {"stdin": source}).wait(Callbacks()) == {"length": expected}


@pytest.mark.parametrize("failure", [ValueError("no more"), OSError(5, "Input/output error"), SystemExit(3)])
def test_input_that_breaks_off_ends_the_command_and_is_what_the_caller_hears_of(
    peer_of: Any, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    def handler(stream: Stream) -> None:
        cancelled = threading.Event()
        stream.on_cancel(cancelled.set)
        assert cancelled.wait(10)
        stream.error(Cancelled("cannot finish the request: the caller cancelled it").to_wire())

    def broken() -> Iterator[bytes]:
        yield b"half"
        raise failure

    seen: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", seen.append)
    client, _ = peer_of(handler)
    with pytest.raises(InvalidArgument, match=r"cannot read the input: .*(no more|Input/output error|3)") as caught:
        client.begin("verb", {}, {"stdin": broken()}).wait(Callbacks())
    assert caught.value.__cause__ is failure
    assert seen == []


def test_a_wrong_piece_in_the_middle_of_an_input_is_named(peer_of: Any) -> None:
    def handler(stream: Stream) -> None:
        cancelled = threading.Event()
        stream.on_cancel(cancelled.set)
        assert cancelled.wait(10)
        stream.error(Cancelled("cannot finish the request: the caller cancelled it").to_wire())

    client, _ = peer_of(handler)
    pieces = as_bytes("stdin", (piece for piece in (b"a", "b")))
    with pytest.raises(InvalidArgument, match="cannot use stdin: piece 2 of it is of type str"):
        client.begin("verb", {}, {"stdin": pieces}).wait(Callbacks())


def test_errors_keep_their_kind(peer_of: Any) -> None:
    client, _ = peer_of(lambda stream: stream.error(NotFound("cannot find it: gone", hint="Look.").to_wire()))
    with pytest.raises(NotFound, match="cannot find it") as caught:
        client.begin("verb", {}).wait(Callbacks())
    assert caught.value.hint == "Look."


def test_a_lost_node_is_told_and_a_new_one_asked_for(peer_of: Any) -> None:
    client, peer = peer_of(lambda stream: peer.channels[0].close("killed"))
    with pytest.raises(NodeUnavailable, match="connection to the node was lost") as caught:
        client.begin("verb", {}).wait(Callbacks())
    assert caught.value.hint is not None
    assert str(client.settings.state_dir / "node.log") in caught.value.hint
    assert "cleaned up" not in caught.value.hint, "a workspace's machine goes on"
    assert len(peer.channels) == 2


def test_a_node_that_left_while_idle_is_replaced_silently(peer_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyro_mcp.surfaces.client.STALE_SECONDS", 0.0)
    client, peer = peer_of(lambda stream: stream.result({}))
    client.begin("verb", {}).wait(Callbacks())
    peer.channels[0].close("idle")
    client.begin("verb", {}).wait(Callbacks())
    assert len(peer.channels) == 2


def test_threads_share_one_connection(peer_of: Any) -> None:
    client, peer = peer_of(lambda stream: stream.result({"n": stream.params["n"]}))
    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda n=n: answers.append(client.begin("v", {"n": n}).wait(Callbacks())["n"]))
        for n in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(answers) == list(range(20))
    assert len(peer.channels) == 1


def test_an_interrupt_cancels_and_waits_for_the_end(peer_of: Any) -> None:
    ended = threading.Event()

    def handler(stream: Stream) -> None:
        cancelled = threading.Event()
        stream.on_cancel(cancelled.set)
        stream.event({"notice": "begun"})
        assert cancelled.wait(30)
        time.sleep(0.1)
        ended.set()
        stream.error({"code": "cancelled", "message": "cannot finish: cancelled"})

    client, _ = peer_of(handler)
    main = threading.main_thread().ident
    assert main is not None
    with pytest.raises(KeyboardInterrupt):
        client.begin("verb", {}).wait(Callbacks(notice=lambda _: signal.pthread_kill(main, signal.SIGINT)))
    assert ended.is_set()


def test_a_listener_that_fails_ends_the_command(peer_of: Any) -> None:
    cancelled = threading.Event()

    def handler(stream: Stream) -> None:
        stream.on_cancel(cancelled.set)
        stream.send(b"x", 1)
        cancelled.wait(10)
        stream.error({"code": "cancelled", "message": "cannot finish: cancelled"})

    def broken(tag: int, data: bytes) -> None:
        raise BrokenPipeError

    client, _ = peer_of(handler)
    with pytest.raises(BrokenPipeError):
        client.begin("verb", {}).wait(Callbacks(output=broken))
    assert cancelled.is_set()


def test_too_much_is_refused_before_it_is_sent(peer_of: Any) -> None:
    client, _ = peer_of(lambda stream: stream.result({}))
    with pytest.raises(InvalidArgument, match="bytes"):
        client.begin("verb", {"command": "x" * 40_000_000})


def test_a_peer_that_is_no_node_is_told(tmp_path: Path) -> None:
    def connect(settings: Settings) -> socket.socket:
        ours, theirs = socket.socketpair()
        theirs.close()
        return ours

    client = Client(Settings.load({}, state_dir=tmp_path), connect)
    with pytest.raises(ProtocolError, match="cannot talk to the node"):
        client.begin("verb", {})


def test_a_node_that_dies_as_it_is_met_is_followed_by_another(tmp_path: Path) -> None:
    peer = Peer(lambda stream: stream.result({"done": True}))
    met: list[Settings] = []

    def connect(settings: Settings) -> socket.socket:
        met.append(settings)
        if len(met) > 1:
            return peer.connect(settings)
        ours, theirs = socket.socketpair()
        theirs.close()
        return ours

    client = Client(Settings.load({}, state_dir=tmp_path), connect)
    assert client.begin("verb", {}).wait(Callbacks()) == {"done": True}
    client.close()
    peer.close()


def test_a_closed_client_says_so(peer_of: Any) -> None:
    client, _ = peer_of(lambda stream: stream.result({}))
    client.close()
    with pytest.raises(NodeUnavailable, match="closed"):
        client.begin("verb", {})
