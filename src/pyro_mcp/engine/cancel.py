"""Cancel: how cancelling a call ends its request in a machine."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from pyro_mcp.errors import Capacity
from pyro_mcp.machines.driver import Machine
from pyro_mcp.operations.call import Call
from pyro_mcp.protocol.channel import ChannelClosed, Message, Stream
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
"""What to do when an agent has stopped answering, or is too busy to."""


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
    done = threading.Event()

    def give_up() -> None:
        if not done.wait(CANCEL_SECONDS):
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
        done.set()


def require_life(machine: Machine) -> None:
    """Ask the agent for a sign of life, of which anything that it says is one. Raises `TimeoutError` without one, and
    `ChannelClosed`."""
    before = machine.channel.heard
    try:
        machine.channel.ping(PONG_SECONDS)
    except TimeoutError:
        if machine.channel.heard == before and machine.channel.standstill.refusal is None:
            raise TimeoutError("stopped answering") from None


def patient(machine: Machine, stream: Stream, seconds: float, max_: float) -> Message:
    """The next message of a request that an agent needs long for, within `seconds`, or while it shows that it lives,
    within `max_`. Raises `TimeoutError`, which says what it did instead, and what `Stream.receive` raises."""
    until = time.monotonic() + max_
    while True:
        try:
            return stream.receive(seconds)
        except TimeoutError:
            require_life(machine)
            if time.monotonic() >= until:
                raise TimeoutError(f"is alive and has not answered within {max_:g} s") from None


def _leave(machine: Machine, stream: Stream) -> None:
    stream.leave("its agent has not ended it yet")
    try:
        require_life(machine)
    except TimeoutError as error:
        machine.channel.close(f"its agent {error}")
    except ChannelClosed:
        # What closed it has said so.
        pass
