"""A peer that speaks the node's protocol over real sockets and answers as a test wants it."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

from pyro_mcp.protocol.channel import Channel, ChannelClosed, Stream
from pyro_mcp.protocol.pipe import Pipe
from pyro_mcp.settings import Settings

Handler = Callable[[Stream], None]


class Peer:
    """Answers connections with `handler`; counts them."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.channels: list[Channel] = []

    def connect(self, settings: Settings) -> socket.socket:
        ours, theirs = socket.socketpair()
        channel = Channel(Pipe(theirs.detach()), initiator=False, hello={"role": "node"}, handler=self.handler)
        threading.Thread(target=self._start, args=(channel,), daemon=True).start()
        self.channels.append(channel)
        return ours

    @staticmethod
    def _start(channel: Channel) -> None:
        # A test may close the channel before this thread has seen that it opened.
        with contextlib.suppress(ChannelClosed):
            channel.start(10)

    def close(self) -> None:
        for channel in self.channels:
            channel.close("the peer is done")
