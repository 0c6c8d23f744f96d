"""The verb table, and serving one connection with it.

A handler gets the stream and returns the result, or raises `AgentError`; the channel's loop edge answers with whichever
it was. What else goes wrong inside a verb answers `internal` and never ends the agent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pyro_mcp.guest.errors import AgentError, cause
from pyro_mcp.protocol.channel import Channel, Stream
from pyro_mcp.protocol.exchange import Exchange
from pyro_mcp.protocol.pipe import Pipe
from pyro_mcp.protocol.workers import Workers

READY_WORKERS = 2

Verb = Callable[[Stream], dict[str, Any] | None]
"""Returns the result, or None when it has answered by itself."""


class Dispatcher:
    """Answers requests from a table of verbs. `hello` describes this agent to each new peer."""

    def __init__(self, verbs: Mapping[str, Verb], hello: dict[str, Any], exchange: Exchange | None = None) -> None:
        self._verbs = verbs
        self._exchange = exchange
        self._workers = Workers(ready=READY_WORKERS)
        self._channel: Channel | None = None
        self._hello = {"role": "agent", "verbs": sorted(verbs), **hello}

    @property
    def channel(self) -> Channel | None:
        """The connection to the peer, who may be asked; None before its hello and after its end."""
        channel = self._channel
        return channel if channel is not None and channel.peer and not channel.closed else None

    def introduce(self, **fields: str) -> None:
        """Add `fields` to the hello that later peers get."""
        self._hello = {**self._hello, **fields}

    def handle(self, stream: Stream) -> None:
        """Answer one request."""
        verb = self._verbs.get(stream.verb)
        if verb is None:
            raise AgentError(
                "unsupported", f"cannot {stream.verb[:64]}: this agent has no such verb", "Rebuild the guest runtime."
            )
        try:
            result = verb(stream)
        except OSError as error:
            raise AgentError("internal", f"cannot {stream.verb}: {cause(error)}") from None
        if result is not None:
            stream.result(result)

    def serve(self, pipe: Pipe, backlog: bytes = b"") -> bytes:
        """Serve one connection until it ends; requests still under way are cancelled by then, and none writes any more:
        a late piece must not come between what the next one says on the same wire.

        Returns what a next peer has already said on the same wire, the `backlog` of the next call: a node that is
        killed and started anew can be back on a port before the guest has seen it go.
        """
        channel = Channel(
            pipe,
            initiator=False,
            hello=self._hello,
            handler=self.handle,
            workers=self._workers,
            backlog=backlog,
            exchange=self._exchange,
        )
        self._channel = channel
        channel.serve()
        pipe.join()
        return channel.leftover
