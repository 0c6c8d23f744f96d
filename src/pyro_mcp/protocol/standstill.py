"""Standstill: the time in which a peer is stopped and not dead.

No deadline of the wire counts while it lasts. Requests that somebody waits for are refused with its reason; what goes
on by itself waits.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from pyro_mcp.protocol.frames import FrameKind
from pyro_mcp.protocol.pipe import FOREVER, Pipe
from pyro_mcp.protocol.stream import Interrupted, RemoteError, Stream

GRACE_SECONDS = 2.0
"""How long a request waits before it is refused: whoever has just mended the cause need not try twice."""
RECOVERY_SECONDS = 60.0
"""A peer that runs again has so long to take and finish what was under way."""


class Requests(Protocol):
    """What is needed of the channel."""

    def _requests(self) -> list[Stream]: ...

    def _begin(self, verb: str, params: dict[str, Any] | None) -> Stream: ...

    def _write(self, kind: FrameKind, stream: int, *payload: bytes | memoryview) -> None: ...


class Standstill:
    """Of one channel. Any thread may look; one begins and ends it."""

    def __init__(self, channel: Requests, pipe: Pipe) -> None:
        self._channel = channel
        self._pipe = pipe
        self._condition = threading.Condition()
        self._refusal: dict[str, Any] | None = None
        self._refused: list[int] = []
        self._since = 0.0
        self._past = 0.0

    def begin(self, refusal: dict[str, Any], spared: Callable[[Stream], bool]) -> None:
        """Requests are answered with `refusal` from now on; those under way that are not `spared` are `Interrupted`."""
        self._pipe.patience = FOREVER
        with self._condition:
            self._refusal, self._since = refusal, time.monotonic()
        for stream in self._channel._requests():
            if not spared(stream):
                stream._refuse(Interrupted(refusal))
                self._refused.append(stream._number)

    def end(self, verb: str, params: dict[str, Any]) -> None:
        """The peer runs again. It learns that nobody waits for what was refused, and `verb`, before anything else."""
        self._pipe.patience = time.monotonic() + RECOVERY_SECONDS
        refused, self._refused = self._refused, []
        for number in refused:
            self._channel._write(FrameKind.CANCEL, number)
        self._channel._begin(verb, params).leave()
        self.forget()

    def forget(self) -> None:
        """Let everybody go on who waits, because it is over or the channel closed."""
        with self._condition:
            if self._refusal is not None:
                self._refusal = None
                self._past += time.monotonic() - self._since
                self._condition.notify_all()

    def check(self) -> None:
        """Raises `RemoteError` while it lasts."""
        if not self.wait(GRACE_SECONDS) and (refusal := self._refusal) is not None:
            raise RemoteError(refusal)

    @property
    def refusal(self) -> dict[str, Any] | None:
        """What requests are answered while it lasts."""
        return self._refusal

    @property
    def seconds(self) -> float:
        """How long the peer has stood still so far, all in all."""
        with self._condition:
            return self._past + (time.monotonic() - self._since if self._refusal is not None else 0.0)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is over; False when `timeout` seconds pass first."""
        with self._condition:
            return self._condition.wait_for(lambda: self._refusal is None, timeout)
