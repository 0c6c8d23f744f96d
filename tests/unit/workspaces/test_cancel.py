"""A cancelled call gives up a machine whose agent does not react, and never one whose agent has answered."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from pyro_mcp.operations.call import Call
from pyro_mcp.protocol.channel import Channel, Stream
from pyro_mcp.protocol.pipe import Pipe
from pyro_mcp.workspaces import cancel

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


def test_an_agent_that_ignores_it_loses_its_machine(
    machine: Callable[[Handler], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cancel, "CANCEL_SECONDS", 0.05)
    over, closed = threading.Event(), threading.Event()
    stubborn = machine(lambda _: over.wait() and None)
    stubborn.channel.on_close(lambda _: closed.set())
    call: Call[None] = Call(None)
    with cancel.cancellable(call, stubborn, stubborn.channel.open("sleep")):
        call.cancel()
        assert closed.wait(30)
    assert stubborn.channel.reason == "it ignored a cancelled request"
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
        if isinstance(thread, threading.Timer):
            thread.join()
    assert not prompt.channel.closed
    assert prompt.channel.ping() > 0
