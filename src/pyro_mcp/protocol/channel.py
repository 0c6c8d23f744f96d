"""Channel: many streams over one pipe, with flow control. Host, guest and clients all use this class.

One side opens a stream with a verb and JSON parameters; the other side's handler answers with exactly one result or
error. Between the two, either side may send tagged DATA and JSON EVENTs, bounded by credit: a sender may have at most
`WINDOW` unread bytes under way per stream, and the reader grants more as its consumer reads, to `WIDE_STREAMS` of them
up to `WIDE`. So a stalled consumer stops its own stream and no other, and memory is bounded. Large pieces of DATA lie
on an `exchange`, where both sides have one, and only their place travels.

Whatever the peer sends is checked against what it may send now; the first broken rule ends the connection.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from pyro_mcp.protocol.exchange import SLOTS, Exchange, Loans
from pyro_mcp.protocol.frames import (
    HEADER,
    PREAMBLE,
    VERSION,
    Frame,
    FrameDecoder,
    FrameError,
    FrameKind,
    encode,
    encode_json,
)
from pyro_mcp.protocol.pipe import Pipe, PipeClosed
from pyro_mcp.protocol.standstill import Standstill
from pyro_mcp.protocol.stream import (
    FRAME_COST,
    WIDE,
    WINDOW,
    ChannelClosed,
    Data,
    End,
    Event,
    Interrupted,
    Message,
    RemoteError,
    Stream,
    StreamResult,
)
from pyro_mcp.protocol.workers import Workers
from pyro_mcp.protocol.writer import Writer

__all__ = [
    "FRAME_COST",
    "WIDE",
    "WINDOW",
    "Channel",
    "ChannelClosed",
    "Data",
    "End",
    "Event",
    "Handler",
    "Interrupted",
    "Message",
    "RemoteError",
    "Stream",
    "StreamResult",
]  # fmt: skip

MAX_STREAMS = 256
"""That one side may have under way at the other, until their handlers are done; each side's are counted apart."""
WIDE_STREAMS = 6
"""That may have a window of `WIDE` at one time: a hostile peer gains 10 MiB by it."""
FRAME_SECONDS = 30.0
Handler = Callable[[Stream], None]


class Channel:
    """One connection. `initiator` speaks first and opens odd streams; the other side opens even ones.

    `hello` is sent along with the protocol version; `handler` runs on a worker thread for each stream the peer opens,
    and what it raises becomes the stream's error. `max_control` caps each JSON payload in bytes, both ways. `workers`
    given here are the caller's and outlive the channel; `backlog` is what was read from the pipe before.
    """

    def __init__(
        self,
        pipe: Pipe,
        *,
        initiator: bool,
        hello: dict[str, Any],
        handler: Handler | None = None,
        max_control: int = 1024 * 1024,
        frame_seconds: float = FRAME_SECONDS,
        workers: Workers | None = None,
        backlog: bytes = b"",
        exchange: Exchange | None = None,
    ) -> None:
        self.max_control = max_control
        self.peer: dict[str, Any] = {}
        self.heard = 0
        """How often something was read from the peer: any of it is a sign of life."""
        self.standstill = Standstill(self, pipe)
        self._pipe = pipe
        self._initiator = initiator
        self._loans = Loans(exchange)
        self._hello = {**hello, **self._loans.offer, "window": WIDE}
        self._wide: set[int] = set()
        self._handler = handler
        self._frame_seconds = frame_seconds
        self._backlog = backlog
        self._workers = workers or Workers()
        self._owns_workers = workers is None
        self._writer = Writer(pipe, self._loans)
        # Held while a stream is opened, and never by the reader: an OPEN may wait for the peer, and the peer for us.
        self._open_lock = threading.RLock()
        self._condition = threading.Condition()
        self._streams: dict[int, Stream] = {}
        self._next = 1 if initiator else 2
        self._highest_peer = 0
        self._serving = 0
        self._ping_lock = threading.Lock()
        self._pongs: deque[float] = deque(maxlen=1)
        self._greeted = False
        self._reason: str | None = None
        self._on_close: list[Callable[[str], None]] = []

    # -- life

    def start(self, timeout: float | None = 10.0) -> dict[str, Any]:
        """Exchange hellos and begin to serve. Returns the peer's hello; raises `ChannelClosed` or `TimeoutError`."""
        if self._initiator and not self._greeted:
            self.greet()
        try:
            threading.Thread(target=self._read_loop, name="channel-reader", daemon=True).start()
        except RuntimeError as error:
            self.close(str(error))
        with self._condition:
            answered = self._condition.wait_for(lambda: self.peer or self.closed, timeout)
        if not answered:
            self.close("the peer did not say hello")
            raise TimeoutError(f"the peer did not say hello within {timeout:g} s")
        self._require_open()
        return self.peer

    def greet(self) -> None:
        """Say hello ahead of `start`, to a peer who is about to listen. Raises `ChannelClosed`."""
        self._greeted = True
        self._greet()

    def serve(self) -> str:
        """Serve the peer, who speaks first, on this very thread until the connection ends; the reason."""
        self._read_loop()
        return self.reason

    @property
    def leftover(self) -> bytes:
        """Once closed because a peer began anew on the same wire: what it has said, the next channel's `backlog`."""
        return self._backlog if self.closed and self._backlog.startswith(PREAMBLE[: HEADER.size]) else b""

    @property
    def closed(self) -> bool:
        return self._reason is not None

    @property
    def reason(self) -> str:
        """Why the connection ended; empty while it lives."""
        return self._reason or ""

    def close(self, reason: str = "closed here", answer: dict[str, Any] | None = None) -> None:
        """End the connection; every stream learns `reason`. The peer, who waits, gets `answer` as the error of what it
        has asked for, and else learns no more than that the connection has ended. Idempotent."""
        with self._condition:
            if self._reason is not None:
                return
            self._reason = reason
            streams = list(self._streams.values())
            self._streams.clear()
            callbacks, self._on_close = self._on_close, []
            self._condition.notify_all()
        if answer is not None:
            self._answer_all(streams, answer)
        self._pipe.close()
        self._loans.close()
        for stream in streams:
            stream._lost(reason)
        self.standstill.forget()
        if self._owns_workers:
            self._workers.stop()
        for callback in callbacks:
            callback(reason)

    def _answer_all(self, streams: list[Stream], answer: dict[str, Any]) -> None:
        payload = encode_json(answer)
        with contextlib.suppress(ChannelClosed):
            for stream in streams:
                if not self._opened_here(stream._number):
                    self._write(FrameKind.ERROR, stream._number, payload)

    def on_close(self, callback: Callable[[str], None]) -> None:
        """Call `callback(reason)` once when the connection ends, at once if it has."""
        with self._condition:
            self._on_close.append(callback)
            reason = self._reason
        if reason is not None:
            callback(reason)

    # -- use

    def open(self, verb: str, params: dict[str, Any] | None = None, body: bytes | None = None) -> Stream:
        """Begin a request. A `body` of at most `BODY_MAX` bytes is its whole input, and all goes as one message, which
        wakes a guest once. Raises `ChannelClosed`, and `RemoteError` when the peer is known to stand still."""
        self.standstill.check()
        return self._begin(verb, params, body)

    def _begin(self, verb: str, params: dict[str, Any] | None, body: bytes | None = None) -> Stream:
        payload = encode_json({"verb": verb, "params": params or {}})
        if len(payload) > self.max_control:
            raise ValueError(f"parameters of {verb} take {len(payload)} bytes; at most {self.max_control} fit")
        # So that streams open on the wire in the order of their numbers.
        with self._open_lock:
            with self._condition:
                self._require_open()
                number = self._next
                self._next += 2
                stream = self._streams[number] = Stream(self, number, verb, params or {})
            self._write(FrameKind.OPEN, number, payload, behind=b"" if body is None else stream._whole(body))
        return stream

    def _requests(self) -> list[Stream]:
        """The streams opened here that are under way."""
        with self._condition:
            return [stream for number, stream in self._streams.items() if self._opened_here(number)]

    def call(self, verb: str, params: dict[str, Any] | None = None, timeout: float | None = None) -> dict[str, Any]:
        """Open a stream and wait for its result, dropping data and events. On timeout the request is cancelled."""
        stream = self.open(verb, params)
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                message = stream.receive(None if deadline is None else max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                stream.cancel()
                raise
            if isinstance(message, StreamResult):
                return message.value

    def ping(self, timeout: float = 5.0) -> float:
        """Round trip to the peer's reader, in seconds. Raises `TimeoutError` or `ChannelClosed`."""
        with self._ping_lock:
            self._pongs.clear()
            begun = time.perf_counter()
            self._write(FrameKind.PING, 0)
            with self._condition:
                if not self._condition.wait_for(lambda: self._pongs or self.closed, timeout):
                    raise TimeoutError(f"no pong within {timeout:g} s")
                self._require_open()
                return self._pongs[0] - begun

    def answer(self, handler: Handler) -> None:
        """Let the peer open streams from now on, for `handler`."""
        self._handler = handler

    # -- for streams

    def _write(self, kind: FrameKind, stream: int, *payload: bytes | memoryview, behind: bytes = b"") -> None:
        self._sending(self._writer.frame, kind, stream, *payload, behind=behind)

    def _write_data(self, stream: int, tag: int, data: memoryview) -> None:
        self._sending(self._writer.data, stream, tag, data)
        if stream not in self._streams:  # It was over already, and nobody says so again.
            self._loans.stream_done(stream)

    def _acknowledge(self, *, last: bool) -> None:
        if self._loans.owed >= (1 if last else SLOTS // 2):
            self._sending(self._writer.send)

    def _sending(self, write: Callable[..., None], *what: Any, **how: Any) -> None:
        try:
            write(*what, **how)
        except (PipeClosed, TimeoutError) as error:
            self.close(f"cannot send: {error}")
            raise ChannelClosed(self.reason) from None

    def _widen(self, number: int) -> bool:
        """Whether the stream may have a window of `WIDE`."""
        with self._condition:
            if self.peer.get("window") != WIDE or len(self._wide) >= WIDE_STREAMS or number not in self._streams:
                return False
            self._wide.add(number)
            return True

    def _forget(self, number: int) -> None:
        with self._condition:
            self._streams.pop(number, None)
            self._wide.discard(number)
        self._loans.stream_done(number)

    def _opened_here(self, number: int) -> bool:
        return number % 2 == (1 if self._initiator else 0)

    def _require_open(self) -> None:
        if self._reason is not None:
            raise ChannelClosed(self._reason)

    # -- the reader

    def _greet(self) -> None:
        payload = encode_json({**self._hello, "version": VERSION})
        greeting = b"".join((PREAMBLE, *encode(FrameKind.HELLO, 0, payload)))
        try:
            self._writer.send(greeting)
        except (PipeClosed, TimeoutError) as error:
            raise ChannelClosed(f"cannot send: {error}") from None

    def _read_loop(self) -> None:
        decoder = FrameDecoder(max_control=self.max_control)
        deadline: float | None = None
        try:
            received, self._backlog = self._backlog, b""
            for frame in decoder.feed(received):
                self._dispatch(frame)
            while not self.closed:
                count = self._pipe.read_into(decoder.space(), deadline=deadline)
                self.heard += 1
                frames = decoder.advance(count)
                for frame in frames:
                    self._dispatch(frame)
                if not decoder.partial:
                    deadline = None
                elif frames or deadline is None:
                    deadline = time.monotonic() + self._frame_seconds
        except PipeClosed as error:
            self.close(str(error))
        except TimeoutError:
            self.close("the peer began a frame and did not finish it in time")
        except ChannelClosed as error:
            self.close(str(error))
        except FrameError as error:
            self._backlog = decoder.rest
            self.close(f"protocol violation: {error}")

    def _dispatch(self, frame: Frame) -> None:
        if not self.peer:
            self._welcome(frame)
            return
        match frame.kind:
            case FrameKind.PING if not frame.payload:
                self._write(FrameKind.PONG, 0)
            case FrameKind.PONG:
                with self._condition:
                    self._pongs.append(time.perf_counter())
                    self._condition.notify_all()
            case FrameKind.OPEN:
                self._accept(frame)
            case FrameKind.TAKEN:
                self._loans.returned(frame.payload)
            case FrameKind.HELLO | FrameKind.PING:
                raise FrameError(f"unexpected {frame.kind.name}")
            case _:
                self._route(frame)

    def _welcome(self, frame: Frame) -> None:
        if frame.kind is not FrameKind.HELLO:
            raise FrameError(f"{frame.kind.name} before HELLO")
        peer = frame.json()
        if peer.get("version") != VERSION:
            raise FrameError(f"the peer speaks version {str(peer.get('version'))[:20]}, this side {VERSION}")
        self._loans.agree(peer)
        if not self._initiator:
            self._greet()
        with self._condition:
            self.peer = peer
            self._condition.notify_all()

    def _accept(self, frame: Frame) -> None:
        number = frame.stream
        if self._opened_here(number) or number <= self._highest_peer or self._handler is None:
            raise FrameError(f"stream {number} may not be opened by the peer")
        self._highest_peer = number
        request = frame.json()
        verb, params = request.get("verb"), request.get("params")
        if not isinstance(verb, str) or not isinstance(params, dict):
            raise FrameError("OPEN without a verb or parameters")
        stream = Stream(self, number, verb, params)
        with self._condition:
            # One that begins after the end would never learn of it.
            self._require_open()
            crowded = self._serving >= MAX_STREAMS
            if not crowded:
                self._streams[number] = stream
                self._serving += 1
        if crowded:
            stream.error({"code": "capacity", "message": f"cannot {verb}: {MAX_STREAMS} requests are under way"})
            return
        try:
            self._workers.submit(lambda: self._serve(stream))
        except RuntimeError:
            # What has used up the machine's threads, such as a fork bomb in a guest, must not take the reader along.
            self._served()
            stream.error({"code": "capacity", "message": f"cannot {verb}: no thread is left to serve it"})

    def _serve(self, stream: Stream) -> None:
        try:
            self._answer(stream)
        finally:
            self._served()

    def _served(self) -> None:
        with self._condition:
            self._serving -= 1

    def _answer(self, stream: Stream) -> None:
        """The loop edge of agent and node: whatever a handler raises becomes the stream's answer."""
        assert self._handler
        try:
            self._handler(stream)
            if not stream._finished:
                stream.error({"code": "internal", "message": f"{stream.verb} gave no answer"})
        except ChannelClosed:
            self._forget(stream._number)
        except Exception as error:  # noqa: BLE001
            to_wire = getattr(error, "to_wire", None)
            if to_wire is None:
                sys.excepthook(type(error), error, error.__traceback__)
                payload = {"code": "internal", "message": f"cannot {stream.verb}: {type(error).__name__}"}
            else:
                payload = to_wire()
            with contextlib.suppress(ChannelClosed):
                stream.error(payload)

    def _route(self, frame: Frame) -> None:
        number = frame.stream
        with self._condition:
            stream = self._streams.get(number)
            known = number < self._next if self._opened_here(number) else number <= self._highest_peer
        if stream is not None:
            stream._deliver(frame)
        elif not known or number == 0:
            raise FrameError(f"{frame.kind.name} for stream {number}, which was never opened")
        elif frame.kind is FrameKind.PLACED:
            self._loans.take(self._loans.parse_notice(frame.payload)[0])
