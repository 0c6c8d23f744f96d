"""Cancel: what a cancelled call does to the request it has under way in a machine."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from pyro_mcp.errors import Capacity
from pyro_mcp.machines.driver import Machine
from pyro_mcp.operations.call import Call
from pyro_mcp.protocol.channel import ChannelClosed, Stream
from pyro_mcp.system.threads import begin

CANCEL_SECONDS = 4.0
"""How long an agent may take to end what was cancelled before nobody waits for it any more. What a client that died had
locked is free within five seconds."""
PONG_SECONDS = 30.0
"""How long an agent that was late to end something may take to show that it lives. A busy host stalls a guest for
seconds, and with the machine go its shells and services."""
SILENT = (
    "Try again in half a minute: a machine that shows no sign of life is ended by then, and starts again with its files"
)
"""What to do when an agent has stopped answering."""


def beside(stream: Stream, work: Callable[[], object], name: str) -> None:
    """Run `work` for a request on a thread of its own. Without one the request is cancelled: raises `Capacity`."""
    try:
        begin(work, name)
    except Capacity:
        stream.cancel()
        raise


@contextlib.contextmanager
def cancellable(call: Call[Any], machine: Machine, stream: Stream) -> Iterator[None]:
    """While inside, a cancelled call ends the request; if the agent does not react, its answer is not waited for, and
    if it shows no other sign of life either, the machine's channel is closed. So it goes at once when a `TimeoutError`
    says that the answer is overdue."""
    over = threading.Event()

    def give_up() -> None:
        if not over.wait(CANCEL_SECONDS):
            _leave(machine, stream)

    def cancel() -> None:
        # On this thread come the client's other requests too, and a machine that takes nothing keeps its writers.
        try:
            begin(give_up, "cancelled")
            begin(stream.cancel, "cancel")
        except Capacity:
            stream.cancel()
            stream.leave("there is no thread to wait for its agent")

    def abandon() -> None:
        stream.cancel()
        _leave(machine, stream)

    forget = call.on_cancel(cancel)
    try:
        yield
    except TimeoutError:
        beside(stream, abandon, "overdue")
        raise
    finally:
        forget()
        over.set()


def _leave(machine: Machine, stream: Stream) -> None:
    stream.leave("its agent has not ended it yet")
    try:
        machine.channel.ping(PONG_SECONDS)
    except TimeoutError:
        if machine.channel.standstill.refusal is None:
            machine.channel.close("its agent stopped answering")
    except ChannelClosed:
        # What closed it has said so.
        pass
