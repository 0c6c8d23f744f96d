"""Limit: how a command's timeout is enforced, by this host's clock.

A guest's clock may go wrong and its agent may be late, so the node measures, and says when it is time. The limit that
the agent gets is a later one, for when no node is there to say so.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from pyro_mcp.engine.cancel import require_life
from pyro_mcp.machines.driver import Machine
from pyro_mcp.protocol.channel import Stream

GRACE_SECONDS = 20.0
"""How long the agent may take to end a command and say so, on an emulated and busy machine, until the next request."""
LATE_SECONDS = 100.0
"""How long after that, if it shows that it lives. What it runs is killed by then, but may not have noticed."""


def guest_limit(seconds: float) -> float:
    """What the agent gets for a limit of so many `seconds`."""
    return seconds * 1.1 + 10


class Limit:
    """The time of one command."""

    def __init__(self, machine: Machine, stream: Stream, seconds: float) -> None:
        self._expired = False
        self._machine = machine
        self._stream = stream
        self._standstill = machine.channel.standstill
        self._due = self._now() + seconds
        self._steps = self._escalate()

    @property
    def remaining(self) -> float:
        """Seconds until `act` is to be called, which may have passed."""
        return max(0.0, self._due - self._now())

    def stalled(self, seconds: float) -> None:
        """A caller who takes no output, such as a pager, holds up the agent, which is not to blame for it."""
        if self._expired:
            self._due += seconds

    def act(self) -> None:
        """Do what is due: end the command, kill it, give it up. Raises `TimeoutError`, which says what its agent did
        instead of answering, and `ChannelClosed`."""
        self._standstill.wait()
        if not self.remaining:
            self._due = next(self._steps) + self._now()

    def _now(self) -> float:
        """A machine that stands still spends none of its command's time."""
        return time.monotonic() - self._standstill.seconds

    def _escalate(self) -> Iterator[float]:
        self._expired = True
        self._stream.expire()
        yield GRACE_SECONDS
        self._stream.cancel()
        require_life(self._machine)
        yield LATE_SECONDS
        waited = GRACE_SECONDS + LATE_SECONDS
        raise TimeoutError(f"is alive and has not said within {waited:g} s that it ended the command")
