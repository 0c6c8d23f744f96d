"""Clients of a node in this process: streaming, input, cancellation, clients that vanish, stall or crowd."""

from __future__ import annotations

import errno
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fleetlab import SIZE, engine_at, processes_of

from pyro_mcp.node.lifecycle import VERBS
from pyro_mcp.node.paths import MAX_CONTROL, NodePaths
from pyro_mcp.node.server import Node
from pyro_mcp.protocol.channel import Channel, Data, RemoteError, Stream, StreamResult
from pyro_mcp.protocol.pipe import Pipe


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    engine = engine_at(tmp_path / "state", idle_seconds=600)
    node = Node(engine.settings, NodePaths.of(engine.settings), engine, VERBS)
    node.listen()
    node.serve()
    thread = threading.Thread(target=node.run)
    thread.start()
    yield node
    node.leave("the test is over")
    thread.join(30)
    assert not thread.is_alive()
    assert list(processes_of(tmp_path / "state")) == []


def client(node: Node) -> Channel:
    connection = node.paths.connect()
    assert connection is not None
    channel = Channel(Pipe(connection.detach()), initiator=True, hello={"role": "client"}, max_control=MAX_CONTROL)
    channel.start(10)
    return channel


def begin(channel: Channel, command: str, **changes: Any) -> Stream:
    params = {"environment": "debian:12", "command": command, "timeout_seconds": 60, **SIZE, **changes}
    return channel.open("run_in_vm", params)


def until_output(stream: Stream) -> None:
    while not isinstance(stream.receive(20), Data):
        pass


def result_of(stream: Stream) -> dict[str, Any]:
    while not isinstance(message := stream.receive(30), StreamResult):
        pass
    return message.value


def wait_empty(node: Node) -> None:
    gone = threading.Event()
    node.engine.on_change(lambda: gone.set() if not node.engine.fleet.rows() else None)
    if node.engine.fleet.rows():
        assert gone.wait(20)


def test_output_comes_while_the_command_runs(node: Node) -> None:
    channel = client(node)
    stream = begin(channel, "echo first; read line; echo got $line", stdin=True)
    until_output(stream)
    stream.send(b"something\n")
    stream.end()
    assert result_of(stream)["stdout"] == "first\ngot something\n"
    channel.close()


def test_cancel_ends_the_guest_command(node: Node) -> None:
    channel = client(node)
    stream = begin(channel, "echo here; sleep 300")
    until_output(stream)
    stream.cancel()
    with pytest.raises(RemoteError) as caught:
        result_of(stream)
    assert caught.value.payload["code"] == "cancelled"
    assert node.engine.fleet.rows() == []
    channel.close()


def test_a_client_that_vanishes_takes_its_machine_along(node: Node) -> None:
    channel = client(node)
    until_output(begin(channel, "echo here; sleep 300"))
    channel.close()
    wait_empty(node)


def test_a_client_that_stops_reading_stalls_only_itself(node: Node) -> None:
    lazy, busy = client(node), client(node)
    stalled = begin(lazy, "yes")
    until_output(stalled)
    begun = time.monotonic()
    assert result_of(begin(busy, "echo quick"))["stdout"] == "quick\n"
    assert time.monotonic() - begun < 50
    stalled.cancel()
    wait_empty(node)
    lazy.close()
    busy.close()


def test_what_the_host_lacks_is_told_as_capacity_and_a_bug_is_not(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    channel = client(node)
    for number, code in ((errno.EMFILE, "capacity"), (errno.ENOMEM, "capacity"), (errno.EINVAL, "internal")):
        failing = OSError(number, os.strerror(number))

        def fail(limit: int, offset: int, failing: OSError = failing) -> None:
            raise failing

        monkeypatch.setattr(node.engine.lifecycle, "listing", fail)
        monkeypatch.setattr(sys, "excepthook", lambda *_: None)
        with pytest.raises(RemoteError) as caught:
            channel.call("list_workspaces", timeout=30)
        assert caught.value.payload["code"] == code
    channel.close()


def test_other_calls_go_on_while_one_is_slow(node: Node) -> None:
    channel = client(node)
    slow = begin(channel, "read line; echo slow", stdin=True)
    for _ in range(10):
        assert channel.call("reap_expired", timeout=30)["count"] == 0
    slow.send(b"go\n")
    slow.end()
    assert result_of(slow)["stdout"] == "slow\n"
    channel.close()


def test_many_clients_run_at_once_and_each_gets_its_own(node: Node) -> None:
    def one(number: int) -> str:
        channel = client(node)
        try:
            return str(result_of(begin(channel, f"echo {number}"))["stdout"])
        finally:
            channel.close()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, range(24))) == [f"{number}\n" for number in range(24)]
    assert node.engine.fleet.rows() == []


def test_threads_and_descriptors_come_back(node: Node) -> None:
    def census() -> tuple[int, int]:
        return threading.active_count(), len(os.listdir("/proc/self/fd"))

    def cycle() -> None:
        channel = client(node)
        stream = begin(channel, "true", stdin=True)
        result_of(stream)
        channel.close()

    for _ in range(3):
        cycle()
    before = census()
    for _ in range(15):
        cycle()
    deadline = time.monotonic() + 30
    while any(now > then + 2 for now, then in zip(census(), before, strict=True)):
        assert time.monotonic() < deadline, (before, census())
        time.sleep(0.05)


def test_a_leaving_node_ends_what_is_under_way(tmp_path: Path) -> None:
    engine = engine_at(tmp_path / "state", idle_seconds=600)
    node = Node(engine.settings, NodePaths.of(engine.settings), engine, VERBS)
    node.listen()
    node.serve()
    thread = threading.Thread(target=node.run)
    thread.start()
    channel = client(node)
    until_output(begin(channel, "echo here; sleep 300"))
    node.leave("a test")
    thread.join(20)
    assert not thread.is_alive()
    assert list(processes_of(tmp_path / "state")) == []


@pytest.mark.parametrize("what", ["descriptor", "pipe", "thread"])
def test_a_client_for_whom_nothing_is_left_does_not_end_the_node(
    node: Node, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Guests with a way out may take hundreds of descriptors, and the machines of this node are worth more."""
    refused = threading.Event()

    def refuse(*_: Any, **__: Any) -> Any:
        refused.set()
        raise RuntimeError("can't start new thread") if what == "thread" else OSError(errno.EMFILE, "too many")

    connection = None
    with monkeypatch.context() as patch:
        if what == "descriptor":
            patch.setattr(socket.socket, "accept", refuse)
        elif what == "pipe":
            patch.setattr(os, "pipe2", refuse)
        else:
            patch.setattr(threading.Thread, "start", refuse)
        connection = node.paths.connect()
        assert connection is not None
        assert refused.wait(10)
    if what == "descriptor":
        # It has waited, and is greeted now.
        Channel(Pipe(connection.detach()), initiator=True, hello={}, max_control=MAX_CONTROL).start(10)
    else:
        connection.settimeout(10)
        assert connection.recv(1) == b""
        connection.close()
    channel = client(node)
    assert channel.call("node_status", timeout=10)["running"] is True
    channel.close()


def test_a_stop_whose_caller_has_gone_ends_the_node_all_the_same(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    stopping, gone = threading.Event(), threading.Event()

    def slowly() -> None:
        stopping.set()
        assert gone.wait(10)

    monkeypatch.setattr(node.engine, "stop_all", slowly)
    channel = client(node)
    channel.open("node_stop", {"force": True})
    assert stopping.wait(10)
    channel.close()
    deadline = time.monotonic() + 10
    while node.client_count and time.monotonic() < deadline:
        time.sleep(0.01)
    gone.set()
    while node.paths.about.exists():
        assert time.monotonic() < deadline, "hidden, and still there"
        time.sleep(0.01)


def test_whoever_arrives_at_the_last_moment_costs_no_processor_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_at(tmp_path / "state", idle_seconds=0.3)
    node = Node(engine.settings, NodePaths.of(engine.settings), engine, VERBS)
    node.listen()
    node.serve()
    accept, listen, looks, others = node._accept_all, node.listen, [], []

    def arriving() -> int:
        """Somebody is in the queue when the node stops listening for the first time."""
        looks.append(node.paths.socket_path.exists())
        return accept() or (not looks[-1] and looks.count(False) == 1)

    def elsewhere() -> None:
        others.append(os.open("/dev/null", os.O_RDONLY))
        listen()

    monkeypatch.setattr(node, "_accept_all", arriving)
    monkeypatch.setattr(node, "listen", elsewhere)
    node.run()
    assert looks.count(False) == 2
    assert len(others) == 1
    assert len(looks) < 20
    os.close(others[0])
