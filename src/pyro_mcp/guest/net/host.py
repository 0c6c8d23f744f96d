"""host: requests to the node at the other end of the channel, answered on the loop's thread.

The channel changes when a node goes and the next one comes. While there is none, a question is answered `Absent`: at
first `soon` is set, since a node that restarts is back within seconds and the asker may let its program try again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from pyro_mcp.guest.net.loop import Loop
from pyro_mcp.protocol.channel import Channel, ChannelClosed, Event, RemoteError, Stream, StreamResult

PATIENCE_SECONDS = 10.0
ANSWER_SECONDS = 90.0
"""A last resort: the host has its own, shorter limits."""
_SWEEP_SECONDS = 15.0


class Absent(Exception):
    """Nobody is there to ask. `soon`: somebody may be, before long."""

    def __init__(self, *, soon: bool) -> None:
        super().__init__("no host is connected")
        self.soon = soon


class HostRefusal(Exception):
    """The host's "no": its `code`, untrusted."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


Answer = dict[str, Any] | Absent | HostRefusal
"""The first event or the result; or why there is none."""
Answered = Callable[[Answer, Stream | None], None]


class Host:
    """Asks through the channel that `current` gives, None when there is none."""

    def __init__(self, loop: Loop, current: Callable[[], Channel | None]) -> None:
        self._loop = loop
        self._current = current
        self._absent_since: float | None = None
        self._waiting: dict[_HostRequest, None] = {}
        self._sweeping = False

    def request(self, verb: str, params: dict[str, Any], answered: Answered) -> None:
        """Open a stream; `answered` is called exactly once with its first message, and the stream if it goes on."""
        channel = self._current()
        if channel is None:
            answered(self.absent(), None)
            return
        try:
            stream = channel.open(verb, params)
        except ChannelClosed:
            answered(self.absent(), None)
            return
        self._absent_since = None
        request = _HostRequest(self, stream, answered)
        self._waiting[request] = None
        stream.watch(lambda: self._loop.call(request.look))
        request.look()
        self._schedule()

    def absent(self) -> Absent:
        """What to say for want of a channel."""
        now = time.monotonic()
        if self._absent_since is None:
            self._absent_since = now
        return Absent(soon=now - self._absent_since < PATIENCE_SECONDS)

    def waits(self, request: _HostRequest) -> bool:
        """Whether `request` has no answer yet."""
        return request in self._waiting

    def done(self, request: _HostRequest) -> None:
        """`request` has its answer."""
        del self._waiting[request]

    def _schedule(self) -> None:
        if self._waiting and not self._sweeping:
            self._sweeping = True
            self._loop.later(_SWEEP_SECONDS, self._sweep)

    def _sweep(self) -> None:
        self._sweeping = False
        limit = time.monotonic() - ANSWER_SECONDS
        for request in [request for request in self._waiting if request.since < limit]:
            request.give_up()
        self._schedule()


def abandon(stream: Stream) -> None:
    """Cancel the request; nobody waits for its answer."""
    stream.cancel()
    stream.leave()


class _HostRequest:
    def __init__(self, host: Host, stream: Stream, answered: Answered) -> None:
        self.since = time.monotonic()
        self._host = host
        self._stream = stream
        self._answered = answered

    def look(self) -> None:
        if not self._host.waits(self):
            return  # Called for by what came behind the answer, which is the stream's next owner's.
        answer: Answer
        stream: Stream | None = None
        try:
            message = self._stream.try_receive()
            if message is None:
                return
            if isinstance(message, Event):
                answer, stream = message.value, self._stream
            elif isinstance(message, StreamResult):
                answer = message.value
            else:
                abandon(self._stream)
                answer = HostRefusal("protocol")
        except RemoteError as error:
            answer = HostRefusal(str(error.payload.get("code")))
        except ChannelClosed:
            answer = self._host.absent()
        self._finish(answer, stream)

    def give_up(self) -> None:
        abandon(self._stream)
        self._finish(HostRefusal("timeout"), None)

    def _finish(self, answer: Answer, stream: Stream | None) -> None:
        self._host.done(self)
        self._stream.watch(None)
        self._answered(answer, stream)
