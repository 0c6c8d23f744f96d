"""Clients of a node in this process: streaming, input, cancellation, clients that vanish, stall or crowd."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fleetlab import SIZE, engine_at, processes_of

from pyro_mcp.node.place import MAX_CONTROL, Place
from pyro_mcp.node.server import Node
from pyro_mcp.protocol.channel import Channel, Data, RemoteError, Result, Stream
from pyro_mcp.protocol.pipe import Pipe


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    engine = engine_at(tmp_path / "state", idle_seconds=600)
    node = Node(engine.settings, Place.of(engine.settings), engine)
    node.listen()
    thread = threading.Thread(target=node.run)
    thread.start()
    yield node
    node.leave("the test is over")
    thread.join(30)
    assert not thread.is_alive()
    assert list(processes_of(tmp_path / "state")) == []


def client(node: Node) -> Channel:
    connection = node.place.connect()
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
    while not isinstance(message := stream.receive(30), Result):
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
    assert time.monotonic() - begun < 5
    stalled.cancel()
    wait_empty(node)
    lazy.close()
    busy.close()


def test_other_calls_go_on_while_one_is_slow(node: Node) -> None:
    channel = client(node)
    slow = begin(channel, "sleep 2; echo slow")
    for _ in range(10):
        assert channel.call("reap_expired", timeout=1)["count"] == 0
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
    import os

    def census() -> tuple[int, int]:
        return threading.active_count(), len(os.listdir("/proc/self/fd"))

    def cycle() -> None:
        channel = client(node)
        stream = begin(channel, "true", stdin=True)
        result_of(stream)
        channel.close()

    for _ in range(3):
        cycle()
    time.sleep(0.3)
    before = census()
    for _ in range(15):
        cycle()
    time.sleep(0.5)
    after = census()
    assert after[0] <= before[0] + 2, (before, after)
    assert after[1] <= before[1] + 2, (before, after)


def test_a_leaving_node_ends_what_is_under_way(tmp_path: Path) -> None:
    engine = engine_at(tmp_path / "state", idle_seconds=600)
    node = Node(engine.settings, Place.of(engine.settings), engine)
    node.listen()
    thread = threading.Thread(target=node.run)
    thread.start()
    channel = client(node)
    until_output(begin(channel, "echo here; sleep 300"))
    node.leave("a test")
    thread.join(20)
    assert not thread.is_alive()
    assert list(processes_of(tmp_path / "state")) == []
