"""Resolver and egress on their loop, asking a real channel; the kernel's part is played by the test."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pyro_mcp.guest.net import egress, host, resolver, rules, trust
from pyro_mcp.guest.net.egress import AgentEgress
from pyro_mcp.guest.net.host import Host
from pyro_mcp.guest.net.loop import Loop
from pyro_mcp.guest.net.network import bind_loopback
from pyro_mcp.guest.net.queue import ConnectionKey, Packet
from pyro_mcp.guest.net.resolver import DnsServer
from pyro_mcp.protocol.channel import Channel, Data, End, Stream
from pyro_mcp.protocol.pipe import Pipe

from .conftest import until

SOURCE = "192.0.0.2"


class Refuse(Exception):
    def __init__(self, code: str) -> None:
        self.code = code

    def to_wire(self) -> dict[str, Any]:
        return {"code": self.code, "message": self.code}


class Rig:
    """A loop on a thread, and the two ends of a channel; `answer` is the host."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.asked: list[dict[str, Any]] = []
        self.answer: Callable[[Stream], None] = lambda _: None
        ours, theirs = socket.socketpair()
        self.node = Channel(Pipe(ours.detach()), initiator=True, hello={}, handler=self._handle)
        self.agent: Channel | None = Channel(Pipe(theirs.detach()), initiator=False, hello={})
        threading.Thread(target=self.agent.serve, daemon=True).start()
        self.node.start(10)
        # The agent may not have read yet who is there.
        until(lambda: self.agent is not None and self.agent.peer)
        self.loop = Loop(self.said.append)
        self.host = Host(self.loop, self.current)
        self._stop = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def current(self) -> Channel | None:
        return self.agent if self.agent is not None and self.agent.peer and not self.agent.closed else None

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self.node.close()
        self._stop = True
        self.loop.call(lambda: None)
        if self._thread.ident:
            self._thread.join(10)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stop:
            self.loop.turn()

    def _handle(self, stream: Stream) -> None:
        self.asked.append(stream.params)
        self.answer(stream)


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.close()
    assert made.said == []


# -- names


@pytest.fixture
def names(rig: Rig) -> Iterator[tuple[str, int]]:
    sockets, port = bind_loopback([socket.SOCK_DGRAM, socket.SOCK_STREAM], ipv6=False)
    serving = DnsServer(rig.loop, rig.host, sockets, ipv6=False)
    rig.start()
    yield "127.0.0.1", port
    rig.close()
    for client in list(serving.clients):
        client.close()
    for sock in sockets:
        sock.close()


def question(kind: int = 1, number: int = 9) -> bytes:
    return struct.pack("!HHHHHH", number, 0x0100, 1, 0, 0, 0) + b"\3web\4test\0" + struct.pack("!HH", kind, 1)


def over_udp(server: tuple[str, int], message: bytes) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.sendto(message, server)
        return sock.recv(4096)


def code_and_answers(message: bytes) -> tuple[int, int]:
    flags, _, answers = struct.unpack_from("!HHH", message, 2)
    return flags & 15, answers


def test_a_name_is_asked_of_the_host(rig: Rig, names: tuple[str, int]) -> None:
    rig.answer = lambda stream: stream.result({"addresses": ["198.51.100.7", "198.51.100.8"], "ttl": 5})
    answer = over_udp(names, question())
    assert code_and_answers(answer) == (0, 2)
    assert answer.endswith(socket.inet_aton("198.51.100.8"))
    assert rig.asked == [{"name": "web.test", "family": 4}]


@pytest.mark.parametrize(("code", "expected"), [("permission", 3), ("not_found", 3), ("timeout", 2), ("what?", 2)])
def test_a_no_of_the_host_has_its_code(rig: Rig, names: tuple[str, int], code: str, expected: int) -> None:
    def refuse(stream: Stream) -> None:
        raise Refuse(code)

    rig.answer = refuse
    assert code_and_answers(over_udp(names, question())) == (expected, 0)


def test_nonsense_from_the_host_is_no_address(rig: Rig, names: tuple[str, int]) -> None:
    rig.answer = lambda stream: stream.result({"addresses": "198.51.100.7", "ttl": "x"})
    assert code_and_answers(over_udp(names, question())) == (0, 0)


def test_what_has_no_answer_here_is_not_asked(rig: Rig, names: tuple[str, int]) -> None:
    for kind in (28, 12, 15, 255):
        assert code_and_answers(over_udp(names, question(kind))) == (0, 0)
    assert rig.asked == []


def test_questions_over_tcp_may_come_in_pieces_and_in_a_row(rig: Rig, names: tuple[str, int]) -> None:
    rig.answer = lambda stream: stream.result({"addresses": ["198.51.100.7"] * 200, "ttl": 5})
    framed = len(question()).to_bytes(2, "big") + question()
    with socket.create_connection(names, 10) as sock, sock.makefile("rb") as file:
        for at in range(len(framed)):
            sock.sendall(framed[at : at + 1])
        sock.sendall(framed)
        for _ in range(2):
            assert code_and_answers(file.read(int.from_bytes(file.read(2), "big"))) == (0, 200)


def test_tcp_clients_are_bounded_and_a_giant_message_ends_its_own(rig: Rig, names: tuple[str, int]) -> None:
    clients = [socket.create_connection(names, 10) for _ in range(resolver.MAX_CLIENTS)]
    rig.answer = lambda stream: stream.result({"addresses": [], "ttl": 5})
    with socket.create_connection(names, 10) as one_more:
        assert one_more.recv(1) == b""
    clients[0].sendall(b"\xff\xff")
    assert clients[0].recv(1) == b""
    with socket.create_connection(names, 10) as sock:
        sock.sendall(len(question()).to_bytes(2, "big") + question())
        assert sock.recv(2) == len(question()).to_bytes(2, "big")
    for client in clients:
        client.close()


def test_too_many_questions_fail_at_once(rig: Rig, names: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "MAX_QUESTIONS", 1)
    monkeypatch.setattr(resolver, "MAX_WAITING", 0)
    gate = threading.Event()

    def wait(stream: Stream) -> None:
        gate.wait(10)
        stream.result({"addresses": ["198.51.100.7"], "ttl": 1})

    rig.answer = wait
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as first:
        first.settimeout(10)
        first.sendto(question(), names)
        until(lambda: rig.asked)
        assert code_and_answers(over_udp(names, question())) == (2, 0)
        gate.set()
        assert code_and_answers(first.recv(512)) == (0, 1)


def test_questions_wait_for_their_turn_but_not_for_ever(
    rig: Rig, names: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolver, "MAX_QUESTIONS", 1)
    gate = threading.Semaphore(0)

    def wait(stream: Stream) -> None:
        gate.acquire(timeout=10)
        stream.result({"addresses": ["198.51.100.7"], "ttl": 1})

    rig.answer = wait
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        for number in range(3):
            sock.sendto(question(number=number), names)
        gate.release(3)
        assert [struct.unpack_from("!H", sock.recv(512))[0] for _ in range(3)] == [0, 1, 2]
        sock.sendto(question(number=3), names)
        until(lambda: len(rig.asked) == 4)
        monkeypatch.setattr(resolver, "WAITING_SECONDS", 0.0)
        sock.sendto(question(number=4), names)
        sock.sendto(b"\0\0\x28" + question()[3:], names)
        sock.recv(512)  # No query, so answered at once: the one before is waiting by now.
        monkeypatch.undo()
        sock.sendto(question(number=5), names)
        gate.release(3)
        assert sorted(struct.unpack_from("!H", sock.recv(512))[0] for _ in range(2)) == [3, 5]


def test_without_a_host_a_question_waits_for_its_repetition_and_then_fails(
    rig: Rig, names: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, rig.agent = rig.agent, None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.sendto(question(number=1), names)
        # Answered in order: an answer to the second alone means that the first got none.
        sock.sendto(question(15, number=2), names)
        assert sock.recv(512)[:2] == b"\0\2"
        monkeypatch.setattr(host, "PATIENCE_SECONDS", 0.0)
        sock.sendto(question(number=3), names)
        assert sock.recv(512)[:4] == b"\0\3\x81\x82"
        rig.agent = agent
        rig.answer = lambda stream: stream.result({"addresses": ["198.51.100.7"], "ttl": 1})
        sock.sendto(question(number=4), names)
        assert code_and_answers(sock.recv(512)) == (0, 1)


# -- connections


class FakeQueue:
    """Stands for the kernel: packets are pushed, verdicts are noted."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_NONBLOCK)
        self._waiting: list[Packet] = []
        self.verdicts: dict[int, int | str] = {}

    def push(self, *packets: Packet) -> None:
        self._waiting.extend(packets)
        os.eventfd_write(self._fd, 1)

    def fileno(self) -> int:
        return self._fd

    def packets(self) -> Iterator[Packet]:
        os.eventfd_read(self._fd)
        while self._waiting:
            yield self._waiting.pop(0)

    def accept(self, number: int) -> None:
        self.verdicts[number] = "accept"

    def drop(self, number: int) -> None:
        self.verdicts[number] = "drop"

    def mark(self, number: int, mark: int) -> None:
        self.verdicts[number] = mark

    def close(self) -> None:
        os.close(self._fd)


class Way(AgentEgress):
    """An egress whose listener is the target: nobody turns packets round here."""

    def __init__(self, rig: Rig) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        self.target: tuple[str, int] = self.listener.getsockname()
        self.queue = FakeQueue()
        super().__init__(rig.loop, rig.host, self.queue, [self.listener])  # type: ignore[arg-type]
        rig.start()

    def packet(self, number: int, *, source: int | None = None) -> Packet:
        return Packet(number, ConnectionKey(SOURCE, 1000 + (number if source is None else source), *self.target))

    def verdict(self, number: int) -> int | str:
        until(lambda: number in self.queue.verdicts)
        return self.queue.verdicts[number]


@pytest.fixture
def way(rig: Rig) -> Iterator[Way]:
    made = Way(rig)
    yield made
    rig.close()
    made.queue.close()
    made.listener.close()


def echo(stream: Stream) -> None:
    stream.event({"connected": True})
    while True:
        message = stream.receive()
        if isinstance(message, Data):
            stream.send(message.data.upper())
        elif isinstance(message, End):
            stream.end()
            stream.result({})
            return


def test_a_packet_waits_for_the_host_and_its_connection_is_carried(rig: Rig, way: Way) -> None:
    gate = threading.Event()

    def answer(stream: Stream) -> None:
        assert gate.wait(10)
        echo(stream)

    rig.answer = answer
    way.queue.push(way.packet(1))
    until(lambda: rig.asked)
    way.queue.push(way.packet(2, source=1))
    assert way.verdict(2) == "drop"
    assert 1 not in way.queue.verdicts
    gate.set()
    assert way.verdict(1) == "accept"
    assert rig.asked == [{"address": way.target[0], "port": way.target[1]}]
    with socket.create_connection(way.target, 10) as sock:
        sock.sendall(b"hello")
        assert sock.recv(5) == b"HELLO"
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(5) == b""
    until(lambda: way._under_way == 0)


@pytest.mark.parametrize(
    ("code", "mark"),
    [
        ("permission", rules.FORBIDDEN),
        ("refused", rules.REFUSED),
        ("timeout", rules.UNREACHABLE),
        ("unreachable", rules.UNREACHABLE),
        ("what?", rules.UNREACHABLE),
    ],
)
def test_a_refused_connection_knows_why(rig: Rig, way: Way, code: str, mark: int) -> None:
    def refuse(stream: Stream) -> None:
        raise Refuse(code)

    rig.answer = refuse
    way.queue.push(way.packet(1))
    assert way.verdict(1) == mark
    until(lambda: way._under_way == 0)


def test_whoever_comes_without_asking_is_turned_away(rig: Rig, way: Way) -> None:
    with pytest.raises(ConnectionResetError), socket.create_connection(way.target, 10) as sock:
        sock.recv(1)
    assert rig.asked == []


def test_a_connection_breaks_when_the_guest_has_no_thread_for_it(
    rig: Rig, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_job: Callable[[], None]) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(way._workers, "submit", refuse)
    rig.answer = echo
    way.queue.push(way.packet(1))
    assert way.verdict(1) == "accept"
    with pytest.raises(ConnectionResetError), socket.create_connection(way.target, 10) as sock:
        sock.recv(1)
    until(lambda: way._under_way == 0)


def test_connections_are_bounded_and_what_is_not_understood_is_refused(
    rig: Rig, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(egress, "MOST", 2)
    rig.answer = echo
    way.queue.push(Packet(1, None), way.packet(2), way.packet(3), way.packet(4))
    assert [way.verdict(number) for number in (1, 2, 3, 4)] == [
        rules.UNREACHABLE,
        "accept",
        "accept",
        rules.UNREACHABLE,
    ]


def test_a_stream_whose_program_has_gone_is_left(rig: Rig, way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress, "ARRIVAL_SECONDS", 0.05)
    left = threading.Event()

    def answer(stream: Stream) -> None:
        stream.on_cancel(left.set)
        stream.event({"connected": True})
        assert left.wait(10)
        raise Refuse("cancelled")

    rig.answer = answer
    way.queue.push(way.packet(1))
    assert way.verdict(1) == "accept"
    assert left.wait(10)
    until(lambda: way._under_way == 0)


def test_a_lost_host_breaks_connections_and_lets_new_ones_try_again_for_a_while(
    rig: Rig, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = threading.Event()

    def answer(stream: Stream) -> None:
        if len(rig.asked) == 1:
            echo(stream)
        else:
            stuck.wait(10)

    rig.answer = answer
    way.queue.push(way.packet(1))
    assert way.verdict(1) == "accept"
    with socket.create_connection(way.target, 10) as sock:
        sock.sendall(b"x")
        assert sock.recv(1) == b"X"
        way.queue.push(way.packet(2))
        until(lambda: len(rig.asked) == 2)
        rig.node.close()
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    assert way.verdict(2) == "drop"
    way.queue.push(way.packet(3))
    assert way.verdict(3) == "drop"
    monkeypatch.setattr(host, "PATIENCE_SECONDS", 0.0)
    way.queue.push(way.packet(4))
    assert way.verdict(4) == rules.UNREACHABLE
    stuck.set()
    until(lambda: way._under_way == 0)


def test_what_comes_right_behind_the_answer_is_left_to_the_connection(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mail or SSH server speaks first, and its greeting may be there before the loop has seen the answer."""
    asked, done, later = threading.Event(), threading.Event(), []
    monkeypatch.setattr(rig.loop, "call", later.append)
    taken: list[Stream | None] = []

    def greet(stream: Stream) -> None:
        asked.wait(10)
        stream.event({"connected": True})
        stream.send(b"220 hello")
        done.wait(10)

    rig.answer = greet
    rig.host.request("net_connect", {}, lambda _answer, stream: taken.append(stream))
    asked.set()
    until(lambda: len(later) == 2)
    for look in later:
        look()
    assert len(taken) == 1
    assert taken[0] is not None
    assert taken[0].receive(5) == Data(0, b"220 hello")
    done.set()
    monkeypatch.undo()


def test_a_host_that_never_answers_is_given_up(rig: Rig, way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "ANSWER_SECONDS", 0.0)
    monkeypatch.setattr(host, "_SWEEP_SECONDS", 0.05)
    gate = threading.Event()

    def never(_stream: Stream) -> None:
        gate.wait(10)

    rig.answer = never
    way.queue.push(way.packet(1))
    assert way.verdict(1) == rules.UNREACHABLE
    gate.set()


# -- the loop


def test_an_error_of_the_system_is_told_and_does_not_end_the_loop() -> None:
    said: list[str] = []
    loop = Loop(said.append)

    def fail() -> None:
        raise OSError(12, "whatever")

    done: list[int] = []
    loop.call(fail)
    loop.call(lambda: done.append(1))
    loop.later(0.0, lambda: done.append(2))
    loop.turn()
    assert said == ["network: Cannot allocate memory"]
    assert done == [1, 2]


def test_the_loop_sleeps_while_nothing_happens() -> None:
    loop = Loop(lambda _: None)
    thread = threading.Thread(target=loop.turn, daemon=True)
    loop.call(lambda: None)
    loop.turn()
    before = time.thread_time()
    thread.start()
    thread.join(0.2)
    assert thread.is_alive()
    assert time.thread_time() - before < 0.1
    loop.call(lambda: None)
    thread.join(10)
    assert not thread.is_alive()


# -- trust


def test_the_hosts_authorities_stand_behind_the_images_own(tmp_path: Any) -> None:
    root = str(tmp_path)
    bundle = tmp_path / trust.BUNDLE[1:]
    bundle.parent.mkdir(parents=True)
    bundle.write_bytes(b"own")
    trust.install(b"first\n", root)
    trust.install(b"second\n", root)
    assert bundle.read_bytes() == b"own\n" + trust.MARKER + b"second\n"
    assert (tmp_path / trust.SOURCE[1:]).read_bytes() == b"second\n"
    assert bundle.stat().st_mode & 0o777 == 0o644
    assert [entry.name for entry in bundle.parent.iterdir()] == [bundle.name]


def test_an_image_without_authorities_gets_the_hosts(tmp_path: Any) -> None:
    trust.install(b"host\n", str(tmp_path))
    assert (tmp_path / trust.BUNDLE[1:]).read_bytes() == trust.MARKER + b"host\n"
