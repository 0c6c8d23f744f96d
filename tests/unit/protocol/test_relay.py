"""Two relays with a real channel between them: a TCP client here, a TCP server there."""

from __future__ import annotations

import hashlib
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pyro_mcp.protocol.channel import Channel, ChannelClosed, Stream
from pyro_mcp.protocol.relay import LARGE_READ, Ending, Relay
from pyro_mcp.protocol.stream import WIDE

MIB = 1024 * 1024
Connect = Callable[..., tuple[Channel, Channel]]


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname(), 10)
        far, _ = listener.accept()
    far.settimeout(10)
    near.settimeout(10)
    return near, far


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def everything(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(MIB), b""))


def until(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.005)


class Tunnel:
    """client ── relay ── channel ── relay ── server; both ends are plain sockets of the test."""

    def __init__(self, connect: Connect, **options: Any) -> None:
        self.far_ending: list[Ending] = []
        self.far_relay: list[Relay] = []
        self._links: list[socket.socket] = []
        self._options = options
        self._pool = ThreadPoolExecutor(256)
        self.channel, self.remote = connect(self._serve)
        self.opened: list[socket.socket] = []

    def _serve(self, stream: Stream) -> None:
        relay = Relay(stream, self._links.pop())
        self.far_relay.append(relay)
        ending = relay.run()
        self.far_ending.append(ending)
        if ending is Ending.DONE:
            stream.result({"sent": relay.written, "received": relay.read})
        else:
            stream.error({"code": "conflict", "message": f"{ending.name} {relay.cause}"})

    def open(self) -> tuple[socket.socket, socket.socket, Relay, Any]:
        """The client's socket, the server's, the near relay and the future of its ending."""
        client, near = tcp_pair()
        far, server = tcp_pair()
        self._links.append(far)
        self.opened += [client, server]
        stream = self.channel.open("connect")
        relay = Relay(stream, near, **self._options)
        until(lambda: not self._links)

        def run() -> Ending:
            ending = relay.run()
            if ending is not Ending.DONE:
                stream.cancel()
            stream.leave()
            return ending

        return client, server, relay, self._pool.submit(run)

    def close(self) -> None:
        self.channel.close()
        self._pool.shutdown(wait=True)
        for sock in self.opened:
            sock.close()


@pytest.fixture
def tunnel(connect: Connect) -> Iterator[Tunnel]:
    made = Tunnel(connect)
    before = len(os.listdir("/proc/self/fd"))
    yield made
    for sock in made.opened:
        sock.close()
    until(lambda: len(os.listdir("/proc/self/fd")) <= before, 20)
    until(lambda: not made.channel._streams and not made.remote._streams)
    made.close()


def test_what_is_said_is_heard_and_both_ends_are_told(tunnel: Tunnel) -> None:
    client, server, relay, ending = tunnel.open()
    client.sendall(b"question")
    assert server.recv(100) == b"question"
    server.sendall(b"answer")
    assert client.recv(100) == b"answer"
    client.close()
    assert server.recv(100) == b""
    server.close()
    assert ending.result(10) is Ending.DONE
    assert (relay.read, relay.written) == (8, 6)


@pytest.mark.parametrize("from_client", [True, False])
def test_a_half_close_ends_one_direction_only(tunnel: Tunnel, from_client: bool) -> None:
    client, server, _, ending = tunnel.open()
    first, second = (client, server) if from_client else (server, client)
    first.sendall(b"all I have")
    first.shutdown(socket.SHUT_WR)
    assert everything(second) == b"all I have"
    for number in range(20):
        second.sendall(b"%d" % number)
        assert first.recv(10) == b"%d" % number
    assert not ending.done()
    second.shutdown(socket.SHUT_WR)
    assert everything(first) == b""
    assert ending.result(10) is Ending.DONE


@pytest.mark.parametrize("from_client", [True, False])
def test_a_reset_arrives_as_a_reset(tunnel: Tunnel, from_client: bool) -> None:
    client, server, _, ending = tunnel.open()
    first, second = (client, server) if from_client else (server, client)
    first.sendall(b"x")
    assert second.recv(1) == b"x"
    reset(first)
    with pytest.raises(ConnectionResetError):
        second.recv(1)
    assert ending.result(10) is (Ending.BROKEN if from_client else Ending.PEER)
    until(lambda: tunnel.far_ending)
    assert tunnel.far_ending == [Ending.PEER if from_client else Ending.BROKEN]


@pytest.mark.parametrize("from_client", [True, False])
def test_a_reset_is_noticed_while_nothing_can_be_read(tunnel: Tunnel, from_client: bool) -> None:
    """The other side reads nothing, so all credit is gone and the socket's data waits; a reset must not."""
    client, server, _, ending = tunnel.open()
    first, second = (client, server) if from_client else (server, client)
    fill(first)
    reset(first)
    until(lambda: tunnel.far_ending or ending.done())
    with pytest.raises(ConnectionResetError):
        everything(second)
    assert ending.result(10) is (Ending.BROKEN if from_client else Ending.PEER)


def fill(sock: socket.socket) -> int:
    """Send until nothing has been taken for a while; how much was."""
    sock.setblocking(False)
    sent = 0
    while select.select([], [sock], [], 0.3)[1]:
        try:
            sent += sock.send(bytes(MIB))
        except BlockingIOError:
            continue
    sock.setblocking(True)
    sock.settimeout(10)
    return sent


def test_twenty_megabytes_each_way_at_once(tunnel: Tunnel) -> None:
    client, server, relay, ending = tunnel.open()
    up, down = os.urandom(20 * MIB), os.urandom(20 * MIB)

    def push(sock: socket.socket, data: bytes) -> None:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)

    with ThreadPoolExecutor(4) as pool:
        pool.submit(push, client, up)
        pool.submit(push, server, down)
        heard_up, heard_down = pool.submit(everything, server), pool.submit(everything, client)
        assert hashlib.sha256(heard_up.result(60)).digest() == hashlib.sha256(up).digest()
        assert hashlib.sha256(heard_down.result(60)).digest() == hashlib.sha256(down).digest()
    assert ending.result(10) is Ending.DONE
    assert (relay.read, relay.written) == (len(up), len(down))


def test_a_slow_reader_stalls_itself_only(tunnel: Tunnel) -> None:
    slow_client, slow_server, slow_relay, _ = tunnel.open()
    slow_client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    slow_server.setblocking(False)
    sent = fill(slow_server)
    fast_client, fast_server, _, _ = tunnel.open()
    body = os.urandom(8 * MIB)
    pusher = threading.Thread(target=lambda: (fast_server.sendall(body), fast_server.shutdown(socket.SHUT_WR)))
    pusher.start()
    assert everything(fast_client) == body
    pusher.join(10)
    assert slow_relay.written < sent
    # What lies between the two sockets is the stream's window, and what is being written.
    assert tunnel.far_relay[0].read - slow_relay.written <= WIDE + LARGE_READ
    slow_server.shutdown(socket.SHUT_WR)
    assert len(everything(slow_client)) == sent


def test_a_stalled_connection_costs_no_processor_time(tunnel: Tunnel) -> None:
    """Both ends hung up towards a relay that may not read on: it must wait for credit, not spin."""
    client, server, _, _ = tunnel.open()
    client.shutdown(socket.SHUT_WR)
    assert server.recv(1) == b""
    fill(server)
    server.shutdown(socket.SHUT_WR)
    begun = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - begun < 0.25
    assert everything(client)


def test_one_byte_at_a_time_and_replies_between(tunnel: Tunnel) -> None:
    """As an upgraded, WebSocket-like connection: small frames both ways at will."""
    client, server, _, ending = tunnel.open()

    def talk(sock: socket.socket, other: bytes) -> bytes:
        heard = b""
        for _ in range(300):
            sock.sendall(other)
            heard += sock.recv(1)
        return heard

    with ThreadPoolExecutor(2) as pool:
        a, b = pool.submit(talk, client, b"c"), pool.submit(talk, server, b"s")
        assert a.result(30) == b"s" * 300
        assert b.result(30) == b"c" * 300
    client.close()
    server.close()
    assert ending.result(10) in (Ending.DONE, Ending.BROKEN)


def test_a_hundred_connections(tunnel: Tunnel) -> None:
    made = [tunnel.open() for _ in range(100)]
    for number, (client, _, _, _) in enumerate(made):
        client.sendall(b"%03d" % number * 1000)
    for number, (client, server, _, _) in enumerate(made):
        heard = b""
        while len(heard) < 3000:
            heard += server.recv(3000)
        assert heard == b"%03d" % number * 1000
        server.close()
        client.close()
    for *_, ending in made:
        assert ending.result(10) in (Ending.DONE, Ending.BROKEN)


def test_stop_ends_it_at_once_for_both(tunnel: Tunnel) -> None:
    client, server, relay, ending = tunnel.open()
    client.sendall(b"x")
    assert server.recv(1) == b"x"
    relay.stop()
    assert ending.result(10) is Ending.STOPPED
    for sock in (client, server):
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    relay.stop()


def test_stop_reaches_a_relay_that_waits_for_a_slow_reader(tunnel: Tunnel) -> None:
    client, server, relay, ending = tunnel.open()
    fill(server)
    relay.stop()
    assert ending.result(10) is Ending.STOPPED
    with pytest.raises(ConnectionResetError):
        everything(client)


def test_the_end_of_the_channel_resets_both(tunnel: Tunnel) -> None:
    client, server, _, ending = tunnel.open()
    client.sendall(b"x")
    assert server.recv(1) == b"x"
    tunnel.channel.close()
    assert ending.result(10) is Ending.PEER
    for sock in (client, server):
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


def test_a_half_open_connection_ends_when_it_is_silent(connect: Connect) -> None:
    tunnel = Tunnel(connect, half_open_seconds=0.3)
    try:
        client, server, _, ending = tunnel.open()
        whole, _, _, other = tunnel.open()
        client.shutdown(socket.SHUT_WR)
        assert server.recv(1) == b""
        assert ending.result(10) is Ending.IDLE
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        # One that is open both ways may be silent for as long as it likes.
        assert not other.done()
        whole.close()
    finally:
        tunnel.close()


def test_a_peer_that_answers_early_ends_both_directions(connect: Connect) -> None:
    def handler(stream: Stream) -> None:
        stream.send(b"bye")
        stream.result({})

    channel, _ = connect(handler)
    client, near = tcp_pair()
    stream = channel.open("connect")
    assert Relay(stream, near).run() is Ending.DONE
    assert everything(client) == b"bye"
    client.close()


def test_an_error_after_the_end_still_resets(connect: Connect) -> None:
    """The far server has ended its direction and then breaks: the client, still sending, must learn of it."""

    def handler(stream: Stream) -> None:
        stream.end()
        stream.receive(10)
        stream.error({"code": "conflict", "message": "it broke"})

    channel, _ = connect(handler)
    client, near = tcp_pair()
    relay = Relay(channel.open("connect"), near)
    with ThreadPoolExecutor(1) as pool:
        ending = pool.submit(relay.run)
        assert client.recv(1) == b""
        client.sendall(b"x")
        assert ending.result(10) is Ending.PEER
    assert relay.cause == "it broke"
    client.close()


def test_a_stream_that_was_left_holds_nothing_of_what_still_comes(connect: Connect) -> None:
    go = threading.Event()
    over = threading.Event()

    def handler(stream: Stream) -> None:
        go.wait(10)
        stream.send(bytes(64 * 1024))
        over.set()
        stream.result({})

    channel, _ = connect(handler)
    stream = channel.open("connect")
    stream.cancel()
    stream.leave()
    stream.leave()
    go.set()
    assert over.wait(10)
    assert channel.ping() < 5
    assert not channel._streams
    assert len(stream._inbox) == 1
    with pytest.raises(ChannelClosed, match="left here"):
        stream.receive(10)


class Recording(socket.socket):
    """A socket that notes the options it is given."""

    def __init__(self, plain: socket.socket) -> None:
        super().__init__(fileno=plain.detach())
        self.options: list[tuple[int, int]] = []

    def setsockopt(self, level: int, option: int, value: Any) -> None:  # type: ignore[override]
        self.options.append((level, option))
        super().setsockopt(level, option, value)


def test_neither_its_own_writes_nor_those_of_a_server_with_nagle_are_held_back(connect: Connect) -> None:
    def handler(stream: Stream) -> None:
        stream.receive(10)
        stream.result({})

    channel, _ = connect(handler)
    client, near = tcp_pair()
    recording = Recording(near)
    client.sendall(b"the head of an answer")
    assert Relay(channel.open("connect"), recording).run() is Ending.DONE
    assert {(socket.IPPROTO_TCP, socket.TCP_NODELAY), (socket.IPPROTO_TCP, socket.TCP_QUICKACK)} <= {*recording.options}
    client.close()
