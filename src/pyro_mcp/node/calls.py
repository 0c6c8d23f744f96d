"""One request from a client: its stream becomes a `Call`, and the answer goes back.

On the wire: DATA 0 is the caller's input, DATA 1 and 2 are live output; EVENT is `{"progress": text, "fraction":
number or null}`, `{"notice": text}` or `{"cursor": how far live output has come}`; CANCEL and a lost connection both
cancel the call.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from pyro_mcp.errors import Cancelled, Capacity
from pyro_mcp.operations.call import Call
from pyro_mcp.operations.operation import Operation
from pyro_mcp.protocol.channel import ChannelClosed, Data, End, Stream
from pyro_mcp.protocol.frames import encode_json
from pyro_mcp.system.atomic import LACKING, MAKE_ROOM

TEXT_MAX = 4096


def answer(stream: Stream, operation: Operation[Any, Any], engine: Any, settings: Any) -> None:
    """Run `operation` for `stream` and send its result. Raises what the operation raises."""
    wire = _Wire(stream)
    call: Call[Any] = Call(engine, settings, wire.report, wire.emit, wire.write, wire.read, wire.emit_position)

    def cancel() -> None:
        wire.cancel()
        call.cancel()

    stream.on_cancel(cancel)
    try:
        with engine.secrets.hidden(stream.params.get("workspace_id")) as masks:
            result = masks.answer(operation.answer(call, stream.params))
    except OSError as error:
        if error.errno not in LACKING:
            raise
        raise Capacity(f"cannot finish {stream.verb}: {error.strerror}", hint=MAKE_ROOM) from error
    finally:
        stream.on_cancel(None)
        wire.close()
    stream.result(result)


class _Wire:
    """A call's callbacks on a stream. Nothing here waits for a caller that has cancelled."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._moved = threading.Condition()
        self._news = 0
        self._done = False
        self._cancelled = False
        stream.watch(self._wake)

    def report(self, message: str, fraction: float | None) -> None:
        self._event({"progress": message[:TEXT_MAX], "fraction": fraction})

    def emit(self, text: str) -> None:
        self._event({"notice": text[:TEXT_MAX]})

    def emit_position(self, cursor: int) -> None:
        self._event({"cursor": cursor})

    def write(self, tag: int, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                size = self._room(1)
                self._stream.send(view[:size], tag)
                view = view[size:]
        except ChannelClosed as error:
            raise _gone(str(error)) from None

    def read(self) -> Iterator[bytes]:
        """Pieces of input until its end, or until the call is over, whichever comes first."""
        seen = -1
        while True:
            with self._moved:
                self._moved.wait_for(lambda: self._done or self._cancelled or self._news != seen)  # noqa: B023
                if self._done or self._cancelled:
                    return
                seen = self._news
            try:
                while (message := self._stream.try_receive()) is not None:
                    if isinstance(message, Data) and message.tag == 0:
                        yield bytes(message.data)
                    elif isinstance(message, End):
                        return
            except ChannelClosed:
                return

    def cancel(self) -> None:
        with self._moved:
            self._cancelled = True
            self._moved.notify_all()

    def close(self) -> None:
        """End a reader that still waits for input nobody will use."""
        self._stream.watch(None)
        with self._moved:
            self._done = True
            self._moved.notify_all()

    def _event(self, value: dict[str, Any]) -> None:
        try:
            self._room(len(encode_json(value)))
            self._stream.event(value)
        except ChannelClosed as error:
            raise _gone(str(error)) from None

    def _room(self, needed: int) -> int:
        """Wait until the caller takes `needed` bytes; how many it takes. Raises `Cancelled` and `ChannelClosed`."""
        with self._moved:
            self._moved.wait_for(lambda: self._cancelled or self._stream.room >= needed)
            if self._cancelled:
                raise _gone("it cancelled")
        return self._stream.room

    def _wake(self) -> None:
        with self._moved:
            self._news += 1
            self._moved.notify_all()


def _gone(why: str) -> Cancelled:
    return Cancelled(f"cannot finish the request: the caller does not want it any more: {why}")
