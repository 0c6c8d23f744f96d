"""Channel: many streams over one pipe, with flow control. Host, guest and clients all use this class.

One side opens a stream with a verb and JSON parameters; the other side's handler answers with exactly one result or
error. Between the two, either side may send tagged DATA and JSON EVENTs, bounded by credit: a sender may have at most
`WINDOW` unread bytes under way per stream, and the reader grants more as its consumer reads. So a stalled consumer
stops its own stream and no other, and memory is bounded by streams x window.

Whatever the peer sends is checked against what it may send now; the first broken rule ends the connection.
"""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pyro_mcp.protocol.frames import (
    HEADER,
    MAX_DATA,
    PREAMBLE,
    VERSION,
    Decoder,
    Frame,
    FrameError,
    Kind,
    encode,
    encode_json,
)
from pyro_mcp.protocol.pipe import Pipe, PipeClosed

WINDOW = 1024 * 1024
FRAME_COST = 64
"""Credit that each DATA or EVENT frame costs besides its payload, so that a stream of tiny pieces is bounded in
memory by the same window, and a conforming sender can never overrun the receiver's queue."""
MAX_STREAMS = 256
MAX_QUEUED = 65536
FRAME_SECONDS = 30.0
SEND_SECONDS = 60.0
READ_SIZE = 256 * 1024


class ChannelClosed(Exception):
    """The connection is gone; `str` says why. Nothing is known about work that was under way."""


class RemoteError(Exception):
    """The peer answered with an error. `payload` holds its `code`, `message` and `hint`, untrusted."""

    def __init__(self, payload: dict[str, Any]) -> None:
        super().__init__(str(payload.get("message"))[:4096])
        self.payload = payload


@dataclass(frozen=True, slots=True)
class Data:
    """A tagged piece of a byte stream. Tags: 0 input, 1 output, 2 error output."""

    tag: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Event:
    """A JSON notice, such as progress."""

    value: dict[str, Any]


@dataclass(frozen=True, slots=True)
class End:
    """The peer will send no more DATA on this stream."""


@dataclass(frozen=True, slots=True)
class Result:
    """The answer; nothing follows it."""

    value: dict[str, Any]


Message = Data | Event | End | Result
Handler = Callable[["Stream"], None]


class Stream:
    """One request and its answer. Made by `Channel.open` or handed to the handler; never constructed elsewhere."""

    def __init__(self, channel: Channel, number: int, verb: str, params: dict[str, Any]) -> None:
        self.verb = verb
        self.params = params
        self._channel = channel
        self._number = number
        self._condition = threading.Condition()
        self._inbox: deque[tuple[int, Message | RemoteError | ChannelClosed]] = deque()
        self._credit = WINDOW
        self._unread = 0
        self._queued = 0
        self._finished = False
        self._peer_ended = False
        self._cancelled = False
        self._on_cancel: Callable[[], None] | None = None
        self._watcher: Callable[[], None] | None = None

    # -- sending

    def send(self, data: bytes | bytearray | memoryview, tag: int = 0) -> None:
        """Send `data` of any length, waiting for credit. Raises `ChannelClosed`, also when the stream is over."""
        view = memoryview(data)
        while view:
            piece = view[: min(MAX_DATA - 1, self._take_credit(len(view)))]
            self._channel._write(Kind.DATA, self._number, bytes((tag,)), piece)
            view = view[len(piece) :]

    def event(self, value: dict[str, Any]) -> None:
        """Send a JSON notice; waits for credit like data."""
        payload = encode_json(value)
        self._take_credit(len(payload), whole=True)
        self._channel._write(Kind.EVENT, self._number, payload)

    def end(self) -> None:
        """Say that no more data follows from this side."""
        self._channel._write(Kind.END, self._number)

    def result(self, value: dict[str, Any]) -> None:
        """Answer and finish. Only the handler's side may."""
        self._finish(Kind.RESULT, value)

    def error(self, payload: dict[str, Any]) -> None:
        """Answer with an error (`code`, `message`, `hint`) and finish."""
        self._finish(Kind.ERROR, payload)

    def cancel(self) -> None:
        """Ask the handler's side to stop. The answer still comes; a stream that is over is left alone."""
        if not self._finished:
            with contextlib.suppress(ChannelClosed):
                self._channel._write(Kind.CANCEL, self._number)

    # -- receiving

    def receive(self, timeout: float | None = None) -> Message:
        """The next message. Raises `RemoteError`, `ChannelClosed`, or `TimeoutError` after `timeout` seconds."""
        with self._condition:
            if not self._inbox and not self._condition.wait_for(lambda: self._inbox, timeout):
                raise TimeoutError(f"no answer to {self.verb} within {timeout:g} s")
        message = self.try_receive()
        assert message is not None, "a stream has one consumer"
        return message

    def try_receive(self) -> Message | None:
        """The next message if one has arrived; otherwise like `receive`."""
        with self._condition:
            if not self._inbox:
                return None
            cost, message = self._inbox.popleft()
            if isinstance(message, RemoteError | ChannelClosed):
                self._inbox.append((cost, message))
                raise message
            self._queued -= cost
            self._unread += cost
            grant = 0
            if self._unread >= WINDOW // 4:
                grant, self._unread = self._unread, 0
        if grant and not self._finished:
            with contextlib.suppress(ChannelClosed):
                self._channel._write(Kind.CREDIT, self._number, HEADER.pack(grant, 0, 0))
        return message

    def messages(self) -> Iterator[Message]:
        """Messages up to and including the result."""
        while True:
            message = self.receive()
            yield message
            if isinstance(message, Result):
                return

    @property
    def room(self) -> int:
        """How many bytes `send` takes now without waiting. Raises `ChannelClosed` when the stream is over."""
        with self._condition:
            if self._finished or self._channel.closed:
                raise ChannelClosed(f"{self.verb} is over: {self._channel.reason or 'answered or cancelled'}")
            return max(0, min(self._credit - FRAME_COST, MAX_DATA - 1))

    def watch(self, callback: Callable[[], None] | None) -> None:
        """Call `callback` after each message, grant of credit, cancellation or loss; on the reader's thread."""
        self._watcher = callback

    @property
    def cancelled(self) -> bool:
        return self._cancelled

    def on_cancel(self, callback: Callable[[], None] | None) -> None:
        """Call `callback` once, on the reader's thread, when the peer cancels or the connection ends."""
        with self._condition:
            self._on_cancel = callback
            fire = self._cancelled
        if fire and callback:
            callback()

    # -- called by the channel

    def _take_credit(self, wanted: int, *, whole: bool = False) -> int:
        with self._condition:
            need = FRAME_COST + (wanted if whole else 1)
            if need > WINDOW:
                raise ValueError(f"a notice of {wanted} bytes exceeds the window")
            self._condition.wait_for(lambda: self._credit >= need or self._finished or self._channel.closed)
            if self._finished or self._channel.closed:
                raise ChannelClosed(f"{self.verb} is over: {self._channel.reason or 'answered or cancelled'}")
            taken = wanted if whole else min(wanted, self._credit - FRAME_COST, MAX_DATA - 1)
            self._credit -= taken + FRAME_COST
            return taken

    def _finish(self, kind: Kind, value: dict[str, Any]) -> None:
        payload = encode_json(value)
        if len(payload) > self._channel.max_control:
            payload = encode_json({"code": "protocol", "message": f"{self.verb} answered with {len(payload)} bytes"})
            kind = Kind.ERROR
        self._close()
        self._channel._forget(self._number)
        self._channel._write(kind, self._number, payload)

    def _close(self) -> None:
        with self._condition:
            self._finished = True
            self._condition.notify_all()

    def _deliver(self, frame: Frame) -> None:
        """Take one frame for this stream; raises `FrameError` if the peer may not send it now."""
        match frame.kind:
            case Kind.DATA:
                if not frame.payload or self._peer_ended:
                    raise FrameError("DATA without a tag, or after END")
                self._put(Data(frame.payload[0], frame.payload[1:]), len(frame.payload) - 1 + FRAME_COST)
            case Kind.EVENT:
                self._put(Event(frame.json()), len(frame.payload) + FRAME_COST)
            case Kind.END:
                if self._peer_ended:
                    raise FrameError("END twice")
                self._peer_ended = True
                self._put(End(), 0)
            case Kind.CREDIT:
                self._grant(frame)
            case Kind.RESULT | Kind.ERROR if self._channel._opened_here(self._number):
                value = frame.json()
                self._close()
                self._channel._forget(self._number)
                self._put(Result(value) if frame.kind is Kind.RESULT else RemoteError(value), 0)
            case Kind.CANCEL if not self._channel._opened_here(self._number):
                self._cancel()
            case _:
                raise FrameError(f"{frame.kind.name} is not allowed here")

    def _put(self, message: Message | RemoteError | ChannelClosed, cost: int) -> None:
        with self._condition:
            if self._queued + self._unread + cost > WINDOW or len(self._inbox) >= MAX_QUEUED:
                raise FrameError("the peer ignored flow control")
            self._queued += cost
            self._inbox.append((cost, message))
            self._condition.notify_all()
        self._tell()

    def _grant(self, frame: Frame) -> None:
        if len(frame.payload) != HEADER.size:
            raise FrameError("malformed CREDIT")
        with self._condition:
            self._credit += HEADER.unpack(frame.payload)[0]
            if self._credit > WINDOW:
                raise FrameError("more credit than was spent")
            self._condition.notify_all()
        self._tell()

    def _tell(self) -> None:
        watcher = self._watcher
        if watcher:
            watcher()

    def _cancel(self) -> None:
        with self._condition:
            self._cancelled = True
            callback, self._on_cancel = self._on_cancel, None
        if callback:
            callback()
        self._tell()

    def _lost(self, reason: str) -> None:
        self._cancel()
        with self._condition:
            self._finished = True
            self._inbox.append((0, ChannelClosed(reason)))
            self._condition.notify_all()
        self._tell()


class Channel:
    """One connection. `initiator` speaks first and opens odd streams; the other side opens even ones.

    `hello` is sent along with the protocol version; `handler` runs on a worker thread for each stream the peer opens,
    and what it raises becomes the stream's error. `max_control` caps each JSON payload in bytes, both ways.
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
    ) -> None:
        self.max_control = max_control
        self.peer: dict[str, Any] = {}
        self._pipe = pipe
        self._initiator = initiator
        self._hello = hello
        self._handler = handler
        self._frame_seconds = frame_seconds
        self._workers = _Workers()
        self._write_lock = threading.Lock()
        self._condition = threading.Condition()
        self._streams: dict[int, Stream] = {}
        self._next = 1 if initiator else 2
        self._highest_peer = 0
        self._ping_lock = threading.Lock()
        self._pongs: deque[float] = deque(maxlen=1)
        self._reason: str | None = None
        self._on_close: Callable[[str], None] | None = None

    # -- life

    def start(self, timeout: float | None = 10.0) -> dict[str, Any]:
        """Exchange hellos and begin to serve. Returns the peer's hello; raises `ChannelClosed` or `TimeoutError`."""
        if self._initiator:
            self._greet()
        threading.Thread(target=self._read_loop, name="channel-reader", daemon=True).start()
        with self._condition:
            answered = self._condition.wait_for(lambda: self.peer or self.closed, timeout)
        if not answered:
            self.close("the peer did not say hello")
            raise TimeoutError(f"the peer did not say hello within {timeout:g} s")
        self._require_open()
        return self.peer

    @property
    def closed(self) -> bool:
        return self._reason is not None

    @property
    def reason(self) -> str:
        """Why the connection ended; empty while it lives."""
        return self._reason or ""

    def close(self, reason: str = "closed here") -> None:
        """End the connection; every stream learns `reason`. Idempotent."""
        with self._condition:
            if self._reason is not None:
                return
            self._reason = reason
            streams = list(self._streams.values())
            self._streams.clear()
            callback = self._on_close
            self._condition.notify_all()
        self._pipe.close()
        for stream in streams:
            stream._lost(reason)
        self._workers.stop()
        if callback:
            callback(reason)

    def on_close(self, callback: Callable[[str], None]) -> None:
        """Call `callback(reason)` once when the connection ends, at once if it has."""
        with self._condition:
            self._on_close = callback
            reason = self._reason
        if reason is not None:
            callback(reason)

    # -- use

    def open(self, verb: str, params: dict[str, Any] | None = None) -> Stream:
        """Begin a request. Raises `ChannelClosed`."""
        payload = encode_json({"verb": verb, "params": params or {}})
        if len(payload) > self.max_control:
            raise ValueError(f"parameters of {verb} take {len(payload)} bytes; at most {self.max_control} fit")
        with self._condition:
            self._require_open()
            number = self._next
            self._next += 2
            stream = self._streams[number] = Stream(self, number, verb, params or {})
            # Under the lock, so that streams open on the wire in the order of their numbers.
            self._write(Kind.OPEN, number, payload)
        return stream

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
            if isinstance(message, Result):
                return message.value

    def ping(self, timeout: float = 5.0) -> float:
        """Round trip to the peer's reader, in seconds. Raises `TimeoutError` or `ChannelClosed`."""
        with self._ping_lock, self._condition:
            self._require_open()
            self._pongs.clear()
            begun = time.perf_counter()
            self._write(Kind.PING, 0)
            if not self._condition.wait_for(lambda: self._pongs or self.closed, timeout):
                raise TimeoutError(f"no pong within {timeout:g} s")
            self._require_open()
            return self._pongs[0] - begun

    # -- for streams

    def _write(self, kind: Kind, stream: int, *payload: bytes | memoryview) -> None:
        header = HEADER.pack(sum(map(len, payload)), stream, kind)
        try:
            with self._write_lock:
                self._pipe.write_all([header, *payload], deadline=time.monotonic() + SEND_SECONDS)
        except (PipeClosed, TimeoutError) as error:
            self.close(f"cannot send: {error}")
            raise ChannelClosed(self.reason) from None

    def _forget(self, number: int) -> None:
        with self._condition:
            self._streams.pop(number, None)

    def _opened_here(self, number: int) -> bool:
        return number % 2 == (1 if self._initiator else 0)

    def _require_open(self) -> None:
        if self._reason is not None:
            raise ChannelClosed(self._reason)

    # -- the reader

    def _greet(self) -> None:
        payload = encode_json({**self._hello, "version": VERSION})
        header, body = encode(Kind.HELLO, 0, payload)
        with self._write_lock:
            try:
                self._pipe.write_all([PREAMBLE, header, body], deadline=time.monotonic() + SEND_SECONDS)
            except (PipeClosed, TimeoutError) as error:
                raise ChannelClosed(f"cannot send: {error}") from None

    def _read_loop(self) -> None:
        decoder = Decoder(max_control=self.max_control)
        buffer = memoryview(bytearray(READ_SIZE))
        deadline: float | None = None
        try:
            while not self.closed:
                count = self._pipe.read_into(buffer, deadline=deadline)
                frames = decoder.feed(buffer[:count])
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
            self.close(f"protocol violation: {error}")

    def _dispatch(self, frame: Frame) -> None:
        if not self.peer:
            self._welcome(frame)
            return
        match frame.kind:
            case Kind.PING if not frame.payload:
                self._write(Kind.PONG, 0)
            case Kind.PONG:
                with self._condition:
                    self._pongs.append(time.perf_counter())
                    self._condition.notify_all()
            case Kind.OPEN:
                self._accept(frame)
            case Kind.HELLO | Kind.PING:
                raise FrameError(f"unexpected {frame.kind.name}")
            case _:
                self._route(frame)

    def _welcome(self, frame: Frame) -> None:
        if frame.kind is not Kind.HELLO:
            raise FrameError(f"{frame.kind.name} before HELLO")
        peer = frame.json()
        if peer.get("version") != VERSION:
            raise FrameError(f"the peer speaks version {str(peer.get('version'))[:20]}, this side {VERSION}")
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
            crowded = len(self._streams) >= MAX_STREAMS
            if not crowded:
                self._streams[number] = stream
        if crowded:
            stream.error({"code": "capacity", "message": f"cannot {verb}: {MAX_STREAMS} requests are under way"})
        else:
            self._workers.submit(lambda: self._serve(stream))

    def _serve(self, stream: Stream) -> None:
        """The loop edge of agent and node: whatever a handler raises becomes the stream's answer."""
        assert self._handler is not None
        try:
            self._handler(stream)
            if not stream._finished:
                stream.error({"code": "internal", "message": f"{stream.verb} gave no answer"})
        except ChannelClosed:
            self._forget(stream._number)
        except Exception as error:  # noqa: BLE001
            to_wire = getattr(error, "to_wire", None)
            if to_wire is None:
                traceback.print_exc(file=sys.stderr)
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


class _Workers:
    """Daemon threads that are kept for reuse: starting one costs a guest under emulation a millisecond."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0
        self._threads = 0

    def submit(self, job: Callable[[], None]) -> None:
        with self._lock:
            if self._idle:
                self._idle -= 1
            else:
                self._threads += 1
                threading.Thread(target=self._run, name="channel-worker", daemon=True).start()
        self._jobs.put(job)

    def stop(self) -> None:
        with self._lock:
            for _ in range(self._threads):
                self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            with self._lock:
                self._idle += 1
