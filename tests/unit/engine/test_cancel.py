"""A cancelled call waits for its agent, but not for long; a machine is given up only when its agent is dead."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from pyro_mcp.engine import cancel
from pyro_mcp.operations.call import Call
from pyro_mcp.protocol.channel import Channel, ChannelClosed, Stream
from pyro_mcp.protocol.pipe import Pipe

Handler = Callable[[Stream], None]


@pytest.fixture
def machine() -> Iterator[Callable[[Handler], Any]]:
    """What `cancellable` needs of a machine: its channel, to an agent that serves with a handler."""
    made: list[Channel] = []

    def make(handler: Handler) -> Any:
        ours, theirs = socket.socketpair()
        node = Channel(Pipe(ours.detach()), initiator=True, hello={"role": "node"})
        agent = Channel(Pipe(theirs.detach()), initiator=False, hello={"role": "agent"}, handler=handler)
        made.extend((node, agent))
        greeting = threading.Thread(target=agent.start, args=(5,))
        greeting.start()
        node.start(5)
        greeting.join()
        return SimpleNamespace(channel=node)

    yield make
    for channel in made:
        channel.close()


def test_an_agent_that_is_late_keeps_its_machine(
    machine: Callable[[Handler], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cancel, "CANCEL_SECONDS", 0.05)
    over = threading.Event()
    late = machine(lambda stream: stream.result({"waited": stream.verb == "noop" or over.wait()}))
    call: Call[None] = Call(None)
    stream = late.channel.open("sleep")
    with cancel.cancellable(call, late, stream):
        call.cancel()
        with pytest.raises(ChannelClosed, match="has not ended it yet"):
            stream.receive(30)
    over.set()
    assert late.channel.call("noop", timeout=30) == {"waited": True}


def test_an_answer_that_is_overdue_is_cancelled_and_the_machine_kept(machine: Callable[[Handler], Any]) -> None:
    cancelled = threading.Event()

    def serve(stream: Stream) -> None:
        if stream.verb == "sleep":
            stream.on_cancel(cancelled.set)
            cancelled.wait()
        stream.result({})

    late = machine(serve)
    stream = late.channel.open("sleep")
    with pytest.raises(TimeoutError), cancel.cancellable(Call(None), late, stream):
        stream.receive(0.05)
    assert cancelled.wait(30)
    assert late.channel.call("noop", timeout=30) == {}


@pytest.mark.parametrize("overdue", [False, True])
def test_an_agent_that_shows_no_sign_of_life_loses_its_machine(
    machine: Callable[[Handler], Any], monkeypatch: pytest.MonkeyPatch, overdue: bool
) -> None:
    monkeypatch.setattr(cancel, "CANCEL_SECONDS", 0.05)
    monkeypatch.setattr(cancel, "PONG_SECONDS", 0.05)
    begun, over, closed = threading.Event(), threading.Event(), threading.Event()

    def serve(stream: Stream) -> None:
        # The reader itself is stuck, so that no ping is answered.
        stream.on_cancel(lambda: over.wait() and None)
        begun.set()
        over.wait()

    stuck = machine(serve)
    stuck.channel.on_close(lambda _: closed.set())
    call: Call[None] = Call(None)
    with contextlib.suppress(TimeoutError), cancel.cancellable(call, stuck, stuck.channel.open("sleep")):
        assert begun.wait(30)
        if overdue:
            raise TimeoutError
        call.cancel()
        assert closed.wait(30)
    assert closed.wait(30)
    assert stuck.channel.reason == "its agent stopped answering"
    over.set()


def test_a_cancel_that_crosses_the_answer_leaves_the_machine(
    machine: Callable[[Handler], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cancel, "CANCEL_SECONDS", 0)
    prompt = machine(lambda stream: stream.result({}))
    call: Call[None] = Call(None)
    begun, go_on = threading.Event(), threading.Event()
    call.on_cancel(begun.set)
    call.on_cancel(lambda: go_on.wait() and None)
    before = set(threading.enumerate())
    with cancel.cancellable(call, prompt, prompt.channel.open("noop")):
        # The cancel is under way, and comes to this request only when the answer has been taken.
        crossing = threading.Thread(target=call.cancel)
        crossing.start()
        assert begun.wait(30)
    go_on.set()
    crossing.join()
    for thread in set(threading.enumerate()) - before:
        if thread.name.startswith("cancel"):
            thread.join()
    assert not prompt.channel.closed
    assert prompt.channel.ping() > 0


def test_a_machine_that_takes_nothing_holds_up_no_other_request_of_its_client(
    machine: Callable[[Handler], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls are cancelled on the thread that reads all that the client says."""
    monkeypatch.setattr(cancel, "CANCEL_SECONDS", 0.05)
    begun, stuck, over = threading.Event(), threading.Event(), threading.Event()

    def stop_reading() -> None:
        stuck.set()
        over.wait()

    def serve(stream: Stream) -> None:
        stream.on_cancel(stop_reading)
        begun.set()
        over.wait()

    full = machine(serve)
    first = full.channel.open("stop reading")
    assert begun.wait(30)
    first.cancel()
    assert stuck.wait(30)
    pushes = [full.channel.open("push") for _ in range(4)]

    def send(push: Stream) -> None:
        with contextlib.suppress(ChannelClosed):
            push.send(bytes(256 * 1024))

    pushing = [threading.Thread(target=send, args=(push,), daemon=True) for push in pushes]
    for thread in pushing:
        thread.start()
    while not full.channel._writer._lock.locked():
        pushing[-1].join(0.01)
    call: Call[None] = Call(None)
    with cancel.cancellable(call, full, pushes[0]):
        reader = threading.Thread(target=call.cancel)
        reader.start()
        reader.join(10)
        held_up = reader.is_alive()
        with pytest.raises(ChannelClosed, match="has not ended it yet"):
            pushes[0].receive(10)
    over.set()
    for thread in (reader, *pushing):
        thread.join(30)
    assert not held_up


def test_without_a_thread_to_spare_nobody_waits_for_the_agent(
    machine: Callable[[Handler], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    begun, cancelled, over = threading.Event(), threading.Event(), threading.Event()

    def serve(stream: Stream) -> None:
        stream.on_cancel(cancelled.set)
        begun.set()
        over.wait()

    deaf = machine(serve)
    call: Call[None] = Call(None)
    with cancel.cancellable(call, deaf, stream := deaf.channel.open("sleep")):
        assert begun.wait(30)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            call.cancel()
        with pytest.raises(ChannelClosed, match="no thread"):
            stream.receive(30)
    assert cancelled.wait(30)
    over.set()
