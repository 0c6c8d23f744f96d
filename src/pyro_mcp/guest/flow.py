"""flow: a request's data, in and out. A cancel by the peer ends every wait."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from pyro_mcp.guest.errors import AgentError, invalid
from pyro_mcp.protocol.channel import Data, End, Message, Stream
from pyro_mcp.protocol.frames import MAX_PIECE

INPUT, OUTPUT = 0, 1
Piece = bytes | memoryview


class Flow:
    """Blocking reads and writes on `stream`. A wait raises `AgentError` `cancelled` once nobody wants the answer."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._event = threading.Event()
        self._rest: Piece = b""
        self._ended = False
        stream.watch(self._event.set)

    def close(self) -> None:
        self._stream.watch(None)

    def check(self) -> None:
        """Raise if the peer has cancelled."""
        if self._stream.cancelled:
            raise AgentError("cancelled", f"cannot {self._stream.verb}: it was cancelled")

    # -- in

    def pieces(self) -> Iterator[Piece]:
        """What the peer sends, as it comes, to its end."""
        if self._rest:
            rest, self._rest = self._rest, b""
            yield rest
        while not self._ended:
            message = self._next()
            if isinstance(message, End):
                self._ended = True
            elif isinstance(message, Data) and message.tag == INPUT:
                yield message.data
            else:
                raise invalid(f"cannot {self._stream.verb}: input is data with tag 0")

    def take(self, size: int) -> Iterator[Piece]:
        """Exactly `size` bytes of input, in pieces. Raises `AgentError` when fewer come."""
        pieces = self.pieces()
        while size:
            piece = next(pieces, None)
            if piece is None:
                raise invalid(f"cannot {self._stream.verb}: its data ends too early, by {size} B")
            if len(piece) > size:
                self._rest = piece[size:]
                piece = piece[:size]
            size -= len(piece)
            if piece:
                yield piece

    def require_end(self) -> None:
        """Raise `AgentError` if more input comes."""
        if any(piece for piece in self.pieces()):
            raise invalid(f"cannot {self._stream.verb}: more data came than was announced")

    def _next(self) -> Message:
        while True:
            self._event.clear()
            self.check()
            message = self._stream.try_receive()
            if message is not None:
                return message
            self._event.wait()

    # -- out

    def send(self, data: Piece) -> None:
        """Send output as credit allows. Afterwards `data` may be used for something else."""
        view = memoryview(data)
        while view:
            self._event.clear()
            self.check()
            room = self._stream.room
            if room >= min(len(view), MAX_PIECE):
                size = len(view) if room >= len(view) else room - room % MAX_PIECE
                self._stream.send(view[:size], OUTPUT)
                view = view[size:]
            else:
                self._event.wait()

    def event(self, value: dict[str, Any]) -> None:
        """Send a notice, in order with the data."""
        while True:
            self._event.clear()
            self.check()
            if self._stream.room > 65536:
                self._stream.event(value)
                return
            self._event.wait()
