"""Cancel: what a cancelled call does to the request it has under way in a machine."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from pyro_mcp.machines.driver import Machine
from pyro_mcp.operations.call import Call
from pyro_mcp.protocol.channel import Stream

CANCEL_SECONDS = 5.0
"""How long an agent may take to end what was cancelled before its machine is given up."""


@contextlib.contextmanager
def cancellable(call: Call[Any], machine: Machine, stream: Stream) -> Iterator[None]:
    """While inside, a cancelled call ends the request, and the machine's channel if the agent does not react."""
    timers: list[threading.Timer] = []

    def cancel() -> None:
        timer = threading.Timer(CANCEL_SECONDS, machine.channel.close, ["it ignored a cancelled request"])
        timer.daemon = True
        timer.start()
        timers.append(timer)
        stream.cancel()

    forget = call.on_cancel(cancel)
    try:
        yield
    finally:
        forget()
        for timer in timers:
            timer.cancel()
