"""Stream: one request over a channel, with its data both ways and its one answer.

A sender may have `WINDOW` unread bytes under way; the receiver grants more as its consumer reads, and gives the first
streams whose consumers read much `WIDE` instead. A consumer either blocks in `receive`, or is woken through `watch` and
takes what there is, so that one poll loop can serve a stream together with descriptors.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

from pyro_mcp.protocol.exchange import SLOT_BYTES, Loans
from pyro_mcp.protocol.frames import HEADER, MAX_PIECE, Frame, FrameError, FrameKind, encode, encode_json

WINDOW = 384 * 1024
FRAME_COST = 64
"""Credit that each EVENT, and each `MAX_PIECE` of DATA begun, costs besides its payload, so that a stream of tiny
pieces is bounded in memory by the same window, and a conforming sender can never overrun the receiver's queue."""
WIDE = 2 * (SLOT_BYTES + SLOT_BYTES // MAX_PIECE * FRAME_COST)
"""Two of the largest pieces, and credit is granted for one at a time. Each grant wakes two threads on either side; with
a small window a transfer does little else."""
BODY_MAX = 64 * 1024
"""What goes along with an OPEN: more is better fed while it is taken."""
MAX_QUEUED = 65536
EXPIRED = b"expired"
"""The payload of a CANCEL that says why: the time is up."""
NOTICE_MAX = WINDOW - WINDOW // 4
"""What a notice may cost. A reader grants credit in quarters of a small window, so more may never come together."""


def cost(size: int) -> int:
    """The credit that a piece of data costs."""
    return size + FRAME_COST * -(-size // MAX_PIECE)


def fitting(credit: int) -> int:
    """The largest piece, of at most `SLOT_BYTES`, that costs no more than `credit`."""
    whole, rest = divmod(max(0, credit), MAX_PIECE + FRAME_COST)
    return min(SLOT_BYTES, whole * MAX_PIECE + max(0, rest - FRAME_COST))


class ChannelClosed(Exception):
    """The connection is gone; `str` says why. Nothing is known about work that was under way."""


class RemoteError(Exception):
    """The peer answered with an error. `payload` holds its `code`, `message` and `hint`, untrusted."""

    def __init__(self, payload: dict[str, Any]) -> None:
        super().__init__(str(payload.get("message"))[:4096])
        self.payload = payload


class Interrupted(RemoteError):
    """The peer stood still while it worked on the request, and ends that when it goes on. `payload` says why."""


class Data(NamedTuple):
    """A tagged piece of a byte stream. Tags: 0 input, 1 output, 2 error output."""

    tag: int
    data: bytes | memoryview


class Event(NamedTuple):
    """A JSON notice, such as progress."""

    value: dict[str, Any]


class End:
    """The peer will send no more DATA on this stream."""


class StreamResult(NamedTuple):
    """The answer; nothing follows it."""

    value: dict[str, Any]


Message = Data | Event | End | StreamResult


class Link(Protocol):
    """What a stream needs of the channel it runs over."""

    max_control: int
    _loans: Loans

    @property
    def closed(self) -> bool: ...

    @property
    def reason(self) -> str: ...

    def _write(self, kind: FrameKind, stream: int, *payload: bytes | memoryview) -> None: ...

    def _write_data(self, stream: int, tag: int, data: memoryview) -> None: ...

    def _acknowledge(self, *, last: bool) -> None: ...

    def _widen(self, number: int) -> bool: ...

    def _forget(self, number: int) -> None: ...

    def _opened_here(self, number: int) -> bool: ...


class Stream:
    """One request and its answer. Made by `Channel.open` or handed to the handler; never constructed elsewhere."""

    def __init__(self, channel: Link, number: int, verb: str, params: dict[str, Any]) -> None:
        self.verb = verb
        self.params = params
        self._channel = channel
        self._number = number
        self._condition = threading.Condition()
        self._inbox: deque[tuple[int, Message | RemoteError | ChannelClosed]] = deque()
        self._credit = self._max = WINDOW
        self._window = WINDOW
        self._unread = 0
        self._queued = 0
        self._finished = False
        self._peer_ended = False
        self._cancelled = False
        self._expired = False
        self._on_cancel: Callable[[], None] | None = None
        self._on_expire: Callable[[], None] | None = None
        self._watcher: Callable[[], None] | None = None

    # -- sending

    def send(self, data: bytes | bytearray | memoryview, tag: int = 0) -> None:
        """Send `data` of any length, waiting for credit. Raises `ChannelClosed`, also when the stream is over."""
        view = memoryview(data)
        while view:
            piece = view[: self._take_credit(len(view))]
            self._channel._write_data(self._number, tag, piece)
            view = view[len(piece) :]

    def event(self, value: dict[str, Any]) -> None:
        """Send a JSON notice; waits for credit like data."""
        payload = encode_json(value)
        self._take_credit(len(payload), notice=True)
        self._channel._write(FrameKind.EVENT, self._number, payload)

    def end(self) -> None:
        """Say that no more data follows from this side."""
        self._channel._write(FrameKind.END, self._number)

    def result(self, value: dict[str, Any]) -> None:
        """Answer and finish. Only the handler's side may."""
        self._finish(FrameKind.RESULT, value)

    def error(self, payload: dict[str, Any]) -> None:
        """Answer with an error (`code`, `message`, `hint`) and finish."""
        self._finish(FrameKind.ERROR, payload)

    def cancel(self) -> None:
        """Ask the handler's side to stop. The answer still comes; a stream that is over is left alone."""
        if not self._finished:
            with contextlib.suppress(ChannelClosed):
                self._channel._write(FrameKind.CANCEL, self._number)

    def expire(self) -> None:
        """Tell the handler's side that its time is up. The answer still comes, and may be late or never come."""
        if not self._finished:
            with contextlib.suppress(ChannelClosed):
                self._channel._write(FrameKind.CANCEL, self._number, EXPIRED)

    def leave(self, reason: str = "left here") -> None:
        """Be done with it: what the handler's side still says is dropped unread, its answer too. Another thread that
        waits for it gets a `ChannelClosed` that gives `reason`. For the opener."""
        self._channel._forget(self._number)
        with self._condition:
            if not self._finished:
                self._give_up(reason)

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
            price, message = self._inbox.popleft()
            if isinstance(message, RemoteError | ChannelClosed):
                self._inbox.append((price, message))
                raise message
            self._queued -= price
            self._unread += price
            grant = self._grant_due()
        with contextlib.suppress(ChannelClosed):
            if grant and not self._finished:
                self._channel._write(FrameKind.CREDIT, self._number, HEADER.pack(grant, 0, 0))
            else:
                self._channel._acknowledge(last=isinstance(message, StreamResult | End))
        return message

    def _grant_due(self) -> int:
        """The credit to grant now, if enough has been read. The caller holds the lock."""
        if self._unread < (WIDE // 2 if self._window == WIDE else WINDOW - NOTICE_MAX):
            return 0
        grant, self._unread = self._unread, 0
        if self._window < WIDE and self._channel._widen(self._number):
            grant += WIDE - self._window
            self._window = WIDE
        return grant

    def messages(self) -> Iterator[Message]:
        """Messages up to and including the result."""
        while True:
            message = self.receive()
            yield message
            if isinstance(message, StreamResult):
                return

    @property
    def room(self) -> int:
        """How many bytes `send` takes now without waiting. Raises `ChannelClosed` when the stream is over."""
        with self._condition:
            if self._finished or self._channel.closed:
                raise ChannelClosed(f"{self.verb} is over: {self._channel.reason or 'answered or cancelled'}")
            return fitting(self._credit)

    def watch(self, callback: Callable[[], None] | None) -> None:
        """Call `callback` after each message, grant of credit, cancellation or loss; on the reader's thread."""
        self._watcher = callback

    @property
    def cancelled(self) -> bool:
        """Whether the peer has cancelled, or is `lost`."""
        return self._cancelled

    @property
    def lost(self) -> bool:
        """Whether the connection has ended."""
        return self._channel.closed

    def on_cancel(self, callback: Callable[[], None] | None) -> None:
        """Call `callback` once, on the reader's thread, when the peer cancels or the connection ends."""
        with self._condition:
            fire = self._cancelled
            self._on_cancel = None if fire else callback
        if fire and callback:
            callback()

    def on_expire(self, callback: Callable[[], None] | None) -> None:
        """Call `callback` once, on the reader's thread, when the peer says that the time is up."""
        with self._condition:
            fire = self._expired
            self._on_expire = None if fire else callback
        if fire and callback:
            callback()

    # -- called by the channel

    def _whole(self, body: bytes) -> bytes:
        """The frames that send all of a fresh stream's input."""
        data = b""
        if body:
            self._take_credit(len(body))
            data = b"".join(encode(FrameKind.DATA, self._number, b"\0" + body))
        return data + b"".join(encode(FrameKind.END, self._number))

    def _take_credit(self, needed: int, *, notice: bool = False) -> int:
        """Wait for credit and take it: for all of a notice, for data in whole `MAX_PIECE`s. How many bytes may go."""
        need = needed + FRAME_COST if notice else cost(min(needed, MAX_PIECE))
        if need > NOTICE_MAX:
            raise ValueError(f"a notice of {needed} bytes exceeds {NOTICE_MAX}")
        with self._condition:
            self._condition.wait_for(lambda: self._credit >= need or self._finished or self._channel.closed)
            if self._finished or self._channel.closed:
                raise ChannelClosed(f"{self.verb} is over: {self._channel.reason or 'answered or cancelled'}")
            taken = needed if notice else min(needed, fitting(self._credit))
            if taken < needed:
                taken -= taken % MAX_PIECE
            self._credit -= taken + FRAME_COST if notice else cost(taken)
            return taken

    def _finish(self, kind: FrameKind, value: dict[str, Any]) -> None:
        payload = encode_json(value)
        if len(payload) > self._channel.max_control:
            payload = encode_json({"code": "protocol", "message": f"{self.verb} answered with {len(payload)} bytes"})
            kind = FrameKind.ERROR
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
            case FrameKind.DATA:
                if self._peer_ended:
                    raise FrameError("DATA after END")
                self._put(Data(frame.tag, frame.payload), cost(len(frame.payload)))
            case FrameKind.PLACED:
                self._fetch(frame)
            case FrameKind.EVENT:
                self._put(Event(frame.json()), len(frame.payload) + FRAME_COST)
            case FrameKind.END:
                if self._peer_ended:
                    raise FrameError("END twice")
                self._peer_ended = True
                self._put(End(), 0)
            case FrameKind.CREDIT:
                self._grant(frame)
            case FrameKind.RESULT | FrameKind.ERROR if self._channel._opened_here(self._number):
                value = frame.json()
                self._close()
                self._channel._forget(self._number)
                self._put(StreamResult(value) if frame.kind is FrameKind.RESULT else RemoteError(value), 0)
            case FrameKind.CANCEL if not self._channel._opened_here(self._number):
                if frame.payload == EXPIRED:
                    self._expire()
                else:
                    self._cancel()
            case _:
                raise FrameError(f"{frame.kind.name} is not allowed here")

    def _fetch(self, frame: Frame) -> None:
        """Take a piece from the exchange; one that may not come now is not even read."""
        loans = self._channel._loans
        slot, length, tag = loans.parse_notice(frame.payload)
        if self._peer_ended:
            raise FrameError("DATA after END")
        self._require_room(cost(length))
        data = loans.fetch(slot, length)
        loans.take(slot)
        self._put(Data(tag, data), cost(length))

    def _require_room(self, price: int) -> None:
        if self._queued + self._unread + price > self._window or len(self._inbox) >= MAX_QUEUED:
            raise FrameError("the peer ignored flow control")

    def _put(self, message: Message | RemoteError | ChannelClosed, price: int) -> None:
        with self._condition:
            self._require_room(price)
            self._queued += price
            self._inbox.append((price, message))
            self._condition.notify_all()
        self._emit()

    def _grant(self, frame: Frame) -> None:
        if len(frame.payload) != HEADER.size:
            raise FrameError("malformed CREDIT")
        with self._condition:
            grant = HEADER.unpack(frame.payload)[0]
            if self._credit + grant > self._max and self._max == WINDOW and grant > WIDE - WINDOW:
                self._max = WIDE
            if self._credit + grant > self._max:
                raise FrameError("more credit than was spent")
            self._credit += grant
            self._condition.notify_all()
        self._emit()

    def _emit(self) -> None:
        watcher = self._watcher
        if watcher:
            watcher()

    def _expire(self) -> None:
        with self._condition:
            self._expired = True
            callback, self._on_expire = self._on_expire, None
        if callback:
            callback()

    def _cancel(self) -> None:
        with self._condition:
            self._cancelled = True
            callback, self._on_cancel = self._on_cancel, None
        if callback:
            callback()
        self._emit()

    def _lost(self, reason: str) -> None:
        self._cancel()
        self._give_up(reason)
        self._emit()

    def _refuse(self, error: RemoteError) -> None:
        self._channel._forget(self._number)
        self._end_with(error)
        self._emit()

    def _give_up(self, reason: str) -> None:
        self._end_with(ChannelClosed(reason))

    def _end_with(self, error: RemoteError | ChannelClosed) -> None:
        with self._condition:
            self._finished = True
            self._inbox.append((0, error))
            self._condition.notify_all()
