"""Published ports end to end: TCP clients, a publisher, a real channel, the agent's own verb, and a TCP server."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pyro_mcp.errors import Capacity, Conflict, InvalidArgument, PermissionDenied
from pyro_mcp.guest.net.forward import tcp_connect
from pyro_mcp.network import publish
from pyro_mcp.network.publish import Publisher
from pyro_mcp.protocol.channel import Channel, Event, RemoteError, Stream
from pyro_mcp.protocol.pipe import Pipe

MIB = 1024 * 1024


def until(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.005)


def everything(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(MIB), b""))


def dial(port: int, host: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection((host, port), 10)


class Server:
    """A TCP server that serves each connection with `behave` on a thread of its own."""

    def __init__(self, behave: Callable[[socket.socket], None], host: str = "127.0.0.1") -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family, backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self._behave = behave
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.settimeout(20)
            thread = threading.Thread(target=self._serve, args=(sock,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        with sock:
            try:
                self._behave(sock)
            except (ConnectionError, TimeoutError):
                pass  # What a client does to its server is looked at from the client's side.

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join(10)
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()


def echo(sock: socket.socket) -> None:
    while data := sock.recv(65536):
        sock.sendall(data)


class House:
    """A channel to an agent's verb, and a publisher before it."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.channel = Channel(Pipe(ours.detach()), initiator=True, hello={"role": "node"})
        self.agent = Channel(Pipe(theirs.detach()), initiator=False, hello={"role": "agent"}, handler=self._handle)
        greeting = threading.Thread(target=self.agent.start, args=(10,))
        greeting.start()
        self.channel.start(10)
        greeting.join()
        self.publisher = Publisher()
        self.servers: list[Server] = []

    def _handle(self, stream: Stream) -> None:
        stream.result(tcp_connect(stream))

    def serve(self, behave: Callable[[socket.socket], None], host: str = "127.0.0.1") -> Server:
        self.servers.append(Server(behave, host))
        return self.servers[-1]

    def opener(self, port: int, host: str = "localhost") -> Callable[[], Stream]:
        return lambda: self.channel.open("tcp_connect", {"host": host, "port": port, "timeout_seconds": 5})

    def publish(self, behave: Callable[[socket.socket], None], **where: Any) -> publish.Listener:
        return self.publisher.publish(self.opener(self.serve(behave).port), **where)


def census() -> tuple[int, int]:
    return len(os.listdir("/proc/self/fd")), sum(t.name.startswith("publish") for t in threading.enumerate())


@pytest.fixture
def house() -> Iterator[House]:
    """Nothing may be left of it: no descriptor, no thread."""
    before = census()
    made = House()
    yield made
    made.publisher.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("publish")]
    until(lambda: not made.agent._streams)
    assert not made.channel._streams
    for server in made.servers:
        server.close()
    made.channel.close()
    until(lambda: made.agent.closed)
    until(lambda: all(now <= then for now, then in zip(census(), before, strict=True)))


def test_a_free_port_of_loopback_is_picked_and_leads_to_the_server(house: House) -> None:
    listener = house.publish(echo)
    assert listener.host == "127.0.0.1"
    assert listener.port > 0
    with dial(listener.port) as client:
        client.sendall(b"hello")
        assert client.recv(100) == b"hello"
        client.shutdown(socket.SHUT_WR)
        assert everything(client) == b""
    until(lambda: listener.connection_count == 0)


def test_http_keep_alive_streaming_and_an_upgrade(house: House) -> None:
    """A chunked response that comes piece by piece, then the same connection switched to another protocol."""
    go = threading.Event()

    def serve(sock: socket.socket) -> None:
        reader = sock.makefile("rb")
        while line := reader.readline():
            while reader.readline() not in (b"\r\n", b""):
                pass
            if b"/stream" in line:
                sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
                assert go.wait(10)
                sock.sendall(b"4\r\nlast\r\n0\r\n\r\n")
            elif b"/socket" in line:
                sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
                while frame := reader.read(4):
                    sock.sendall(frame[::-1])
            else:
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        reader.close()

    listener = house.publish(serve)
    with dial(listener.port) as client, client.makefile("rb") as reader:
        for _ in range(3):
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert reader.read(len(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")).endswith(b"ok")
        client.sendall(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
        while reader.readline() != b"first\r\n":
            pass
        go.set()
        assert [reader.readline() for _ in range(4)] == [b"4\r\n", b"last\r\n", b"0\r\n", b"\r\n"]
        client.sendall(b"GET /socket HTTP/1.1\r\nUpgrade: websocket\r\n\r\n")
        assert [reader.readline() for _ in range(2)] == [b"HTTP/1.1 101 Switching Protocols\r\n", b"\r\n"]
        for _ in range(50):
            client.sendall(b"abcd")
            assert reader.read(4) == b"dcba"


def test_several_ports_and_each_ends_alone(house: House) -> None:
    def word(text: bytes) -> Callable[[socket.socket], None]:
        return lambda sock: sock.sendall(text)

    first, second = house.publish(word(b"one")), house.publish(word(b"two"))
    with dial(first.port) as client:
        assert everything(client) == b"one"
    first.close()
    with pytest.raises(ConnectionRefusedError):
        dial(first.port)
    with dial(second.port) as client:
        assert everything(client) == b"two"


def test_a_closed_listener_frees_its_port_at_once_and_resets_its_connections(house: House) -> None:
    listener = house.publish(echo)
    for _ in range(20):
        with dial(listener.port) as client:
            client.sendall(b"x")
            assert client.recv(1) == b"x"
            listener.close()
            assert not [t for t in threading.enumerate() if t.name == f"publish-{listener.port}"]
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        listener.close()
        listener = house.publisher.publish(house.opener(house.servers[0].port), port=listener.port)


def test_a_taken_port_is_a_conflict_with_a_remedy(house: House) -> None:
    listener = house.publish(echo)
    with pytest.raises(Conflict, match=f"port {listener.port} on 127.0.0.1: it is taken") as caught:
        house.publish(echo, port=listener.port)
    assert caught.value.hint is not None
    with pytest.raises(Conflict):
        house.publish(echo, port=listener.port, host="0.0.0.0")


@pytest.mark.parametrize(
    ("host", "port"),
    [("127.0.0.1", -1), ("127.0.0.1", 65536), ("example.com", 0), ("", 0), ("192.0.2.1", 0), ("224.0.0.1\0", 0)],
)
def test_what_is_no_address_or_port_is_refused(house: House, host: str, port: int) -> None:
    with pytest.raises(InvalidArgument, match="cannot publish"):
        house.publish(echo, host=host, port=port)


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.EACCES, PermissionDenied), (errno.EMFILE, Capacity)],
)
def test_what_the_host_refuses_is_typed(
    house: House, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception]
) -> None:
    class Refused(socket.socket):
        def bind(self, address: Any) -> None:
            raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(publish.socket, "socket", Refused)
        with pytest.raises(kind, match="cannot publish port 80"):
            house.publisher.publish(house.opener(1), port=80)


def test_ipv6_only_when_asked(house: House) -> None:
    listener = house.publish(echo, host="::1")
    with dial(listener.port, "::1") as client:
        client.sendall(b"six")
        assert client.recv(10) == b"six"
    with pytest.raises(ConnectionRefusedError):
        dial(listener.port)


def test_a_server_that_listens_on_ipv6_only_is_found(house: House) -> None:
    server = house.serve(echo, "::1")
    listener = house.publisher.publish(house.opener(server.port))
    with dial(listener.port) as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"


def test_where_no_server_listens_the_client_is_reset_at_once(house: House) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    listener = house.publisher.publish(house.opener(port))
    with pytest.raises(ConnectionResetError), dial(listener.port) as client:
        client.recv(1)
    until(lambda: listener.connection_count == 0)
    with pytest.raises(RemoteError, match=f"nothing listens on port {port} in the guest") as caught:
        house.opener(port)().receive(10)
    assert caught.value.payload["code"] == "not_found"


@pytest.mark.parametrize(
    "params",
    [
        {"host": "10.0.0.1", "port": 80},
        {"host": "127.0.0.2", "port": 80},
        {"host": "localhost", "port": 0},
        {"host": "localhost", "port": 65536},
        {"host": "localhost", "port": "80"},
        {"port": 80},
        {"host": "localhost", "port": 80, "timeout_seconds": 0},
    ],
)
def test_the_agent_dials_loopback_only(house: House, params: dict[str, Any]) -> None:
    with pytest.raises(RemoteError) as caught:
        house.channel.call("tcp_connect", params, timeout=10)
    assert caught.value.payload["code"] == "invalid_argument"


def full_listener() -> tuple[socket.socket, list[socket.socket]]:
    """A listener that never accepts, with its backlog full: connecting to it hangs."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=0)
    waiting = []
    for _ in range(4):
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        sock.connect_ex(listener.getsockname())
        waiting.append(sock)
    return listener, waiting


def test_a_server_that_accepts_nothing_times_out_and_can_be_cancelled(house: House) -> None:
    listener, waiting = full_listener()
    params = {"host": "localhost", "port": listener.getsockname()[1], "timeout_seconds": 0.3}
    with pytest.raises(RemoteError, match="does not accept") as caught:
        house.channel.call("tcp_connect", params, timeout=10)
    assert caught.value.payload["code"] == "timeout"
    stream = house.channel.open("tcp_connect", {**params, "timeout_seconds": 600})
    stream.cancel()
    with pytest.raises(RemoteError) as caught:
        stream.receive(10)
    assert caught.value.payload["code"] == "cancelled"
    published = house.publisher.publish(lambda: house.channel.open("tcp_connect", {**params, "timeout_seconds": 600}))
    with dial(published.port) as client:
        until(lambda: published.connection_count)
        published.close()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    for sock in (listener, *waiting):
        sock.close()


def test_the_agent_says_when_it_is_connected(house: House) -> None:
    stream = house.opener(house.serve(echo).port)()
    message = stream.receive(10)
    assert isinstance(message, Event)
    assert message.value == {"connected": True}
    stream.cancel()
    stream.leave()


def test_twenty_megabytes_each_way_through_both(house: House) -> None:
    body = os.urandom(20 * MIB)
    listener = house.publish(echo)
    with dial(listener.port) as client:

        def push() -> None:
            client.sendall(body)
            client.shutdown(socket.SHUT_WR)

        pusher = threading.Thread(target=push)
        pusher.start()
        assert hashlib.sha256(everything(client)).digest() == hashlib.sha256(body).digest()
        pusher.join(10)


def test_a_slow_reader_beside_fast_ones(house: House) -> None:
    def flood(sock: socket.socket) -> None:
        if sock.recv(1) == b"l":
            sock.sendall(bytes(32 * MIB))
        else:
            sock.sendall(b"quick")

    listener = house.publish(flood)
    with dial(listener.port) as slow:
        slow.sendall(b"l")
        assert slow.recv(1) == b"\0"
        for _ in range(20):
            with dial(listener.port) as quick:
                quick.sendall(b"q")
                assert everything(quick) == b"quick"
        assert len(everything(slow)) == 32 * MIB - 1


def test_a_hundred_connections_at_once(house: House) -> None:
    listener = house.publish(echo)

    def one(number: int) -> bool:
        body = b"%03d" % number * 20_000
        with dial(listener.port) as client:
            pusher = threading.Thread(target=client.sendall, args=(body,))
            pusher.start()
            heard = b""
            while len(heard) < len(body):
                heard += client.recv(MIB)
            pusher.join()
            return heard == body

    with ThreadPoolExecutor(100) as pool:
        assert all(pool.map(one, range(100)))
    until(lambda: listener.connection_count == 0)


def test_what_exceeds_the_limit_waits_its_turn(house: House) -> None:
    server = house.serve(echo)
    narrow = Publisher(connections=2, listener_connections=1)
    first, second, third = (narrow.publish(house.opener(server.port)) for _ in range(3))
    with dial(first.port) as one, dial(second.port) as two:
        for client in (one, two):
            client.sendall(b"x")
            assert client.recv(1) == b"x"
        with dial(first.port) as waiting, dial(third.port) as also_waiting:
            for client in (waiting, also_waiting):
                client.sendall(b"later")
                client.settimeout(0.2)
                with pytest.raises(TimeoutError):
                    client.recv(10)
                client.settimeout(10)
            assert (first.connection_count, third.connection_count) == (1, 0)
            two.close()
            assert also_waiting.recv(10) == b"later"
            one.close()
            assert waiting.recv(10) == b"later"
    narrow.close()
    with pytest.raises(Conflict):
        narrow.publish(house.opener(server.port))


def test_a_killed_client_resets_the_server(house: House) -> None:
    seen: list[BaseException] = []
    ready = threading.Event()

    def serve(sock: socket.socket) -> None:
        sock.sendall(b"x")
        ready.set()
        try:
            sock.recv(1)
        except ConnectionResetError as error:
            seen.append(error)

    listener = house.publish(serve)
    client = dial(listener.port)
    assert client.recv(1) == b"x"
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    until(lambda: seen)
    until(lambda: listener.connection_count == 0)


def test_the_end_of_the_channel_resets_clients_and_the_listener_stays_until_closed(house: House) -> None:
    listener = house.publish(echo)
    with dial(listener.port) as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        house.agent.close("the machine died")
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    with pytest.raises(ConnectionResetError), dial(listener.port) as client:
        client.recv(1)
    until(lambda: listener.connection_count == 0)


def test_close_in_the_middle_of_a_transfer(house: House) -> None:
    listener = house.publish(lambda sock: sock.sendall(bytes(64 * MIB)))
    with dial(listener.port) as client:
        assert client.recv(1)
        house.publisher.close()
        house.publisher.close()
        with pytest.raises(ConnectionResetError):
            everything(client)
    with pytest.raises(ConnectionRefusedError):
        dial(listener.port)


def test_a_host_out_of_descriptors_goes_on_when_there_are_some(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    refusals = iter([OSError(errno.EMFILE, "no more"), OSError(errno.ECONNABORTED, "gone again")])

    class Scarce(socket.socket):
        def accept(self) -> tuple[socket.socket, Any]:
            for refusal in refusals:
                raise refusal
            return super().accept()

    server = house.serve(echo)
    with monkeypatch.context() as patched:
        patched.setattr(publish.socket, "socket", Scarce)
        listener = house.publisher.publish(house.opener(server.port))
    with dial(listener.port) as client:
        client.sendall(b"patience")
        assert client.recv(100) == b"patience"
