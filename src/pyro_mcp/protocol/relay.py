"""Relay: one socket and one stream, joined, so that a TCP connection goes through a channel.

A single poll loop on the caller's thread moves data both ways. It reads the socket only while the peer grants credit
and takes from the stream only while the socket accepts: a slow reader at either end stops its own direction of its
own connection, and memory stays below the stream's window. What TCP says is said on the other side: a FIN is an
END and the reverse, each direction for itself; a reset, a dead channel or `stop` ends both at once, and the socket
with a reset, so that nobody takes half an answer for a whole one.

The stream stays the caller's: its handler answers it; its opener cancels it unless all went well, and leaves it.
"""

from __future__ import annotations

import _socket
import os
import select
import struct
from enum import Enum

from pyro_mcp.protocol.exchange import buffer
from pyro_mcp.protocol.stream import ChannelClosed, Data, End, Message, RemoteError, Stream, StreamResult
from pyro_mcp.protocol.wake import Wake

SMALL_READ = 16 * 1024
LARGE_READ = 256 * 1024
LOW_CREDIT = 4 * 1024
"""Less credit than this is waited out: a window that is read up comes back in quarters, never in crumbs."""
TURN = 8
"""Messages written to the socket before the other direction gets its turn."""

_GONE = select.POLLHUP | select.POLLERR | select.POLLNVAL
_ABORT = struct.pack("ii", 1, 0)


class Ending(Enum):
    """How a relay ended."""

    DONE = "both sides said all they had to say"
    BROKEN = "the socket's peer broke the connection"
    PEER = "the stream's peer gave up, or its channel ended"
    STOPPED = "it was stopped here"
    IDLE = "one direction had ended, and the other was silent for too long"


class Relay:
    """Owns `sock`, any connected stream socket, and closes it at the end of `run`, which is called once.

    `half_open_seconds` bounds the silence after one of the two directions has ended. `read` and `written` count the
    socket's bytes and may be looked at any time; `cause` says why it ended, as far as it is known.
    """

    def __init__(self, stream: Stream, sock: _socket.socket, *, half_open_seconds: float | None = None) -> None:
        self.read = 0
        self.written = 0
        self.cause = ""
        self._stream = stream
        self._sock = sock
        self._limit = None if half_open_seconds is None else half_open_seconds * 1000
        self._wake = Wake()
        self._poll = select.poll()
        self._mask: int | None = None
        self._hung = False
        self._stopped = False
        self._reading = True
        self._hearing = True
        self._answered = False
        self._more = False
        self._pending = memoryview(b"")
        self._buffer = memoryview(bytearray(SMALL_READ))

    def stop(self) -> None:
        """End `run` now, from any thread; without effect once it has ended."""
        self._stopped = True
        self._wake.set()

    def run(self) -> Ending:
        """Move data until both directions have ended or one of them broke."""
        ending = Ending.PEER
        try:
            _prepare(self._sock)
            self._poll.register(self._wake.fd, select.POLLIN)
            self._stream.watch(self._wake.set)
            self._wake.set()
            ending = self._loop()
        except (RemoteError, ChannelClosed) as error:
            self.cause = str(error)
        except OSError as error:
            ending, self.cause = Ending.BROKEN, os.strerror(error.errno) if error.errno else str(error)
        finally:
            self._stream.watch(None)
            self._wake.close()
            close_socket(self._sock, abort=ending is not Ending.DONE)
        return ending

    # -- the loop

    def _loop(self) -> Ending:
        while True:
            events = self._wait()
            if self._stopped:
                return Ending.STOPPED
            if self._stream.cancelled:
                return Ending.PEER
            if events is None:
                return Ending.IDLE
            if self._wake.fd in events:
                self._wake.clear()
            self._from_stream()
            self._from_socket(events.get(self._sock.fileno(), 0))
            if not (self._reading or self._hearing or self._pending):
                return Ending.DONE

    def _wait(self) -> dict[int, int] | None:
        """What is ready. None when a half-open connection has been silent for too long."""
        self._arm()
        if self._more:
            return dict(self._poll.poll(0))
        return dict(self._poll.poll(None if self._reading and self._hearing else self._limit)) or None

    def _arm(self) -> None:
        """Watch the socket for what can be done with it now; also when that is nothing, to learn of a reset."""
        mask: int | None = select.POLLOUT if self._pending else 0
        if self._reading and self._room():
            mask = (mask or 0) | select.POLLIN
        if not mask and self._hung:
            mask = None
        if mask == self._mask:
            return
        if mask is None:
            self._poll.unregister(self._sock)
        else:
            self._poll.register(self._sock, mask)
        self._mask = mask

    # -- from the socket to the stream

    def _room(self) -> int:
        """How much may be read now. None, too, once the peer has answered: the inbox says what that means."""
        try:
            room = self._stream.room
        except ChannelClosed:
            return 0
        return room if room >= LOW_CREDIT else 0

    def _from_socket(self, ready: int) -> None:
        room = self._room() if self._reading and ready & (select.POLLIN | _GONE) else 0
        if room:
            self._read_socket(room)
        elif ready & _GONE:
            failure = self._sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
            if failure:
                raise OSError(failure, os.strerror(failure))
            # Shut both ways, and what it still holds must wait for credit: no more events until then.
            self._hung = True

    def _read_socket(self, room: int) -> None:
        try:
            count = self._sock.recv_into(self._buffer[:room])
        except BlockingIOError:
            return
        try:
            if count:
                self.read += count
                self._stream.send(self._buffer[:count])
            else:
                self._reading = False
                self._stream.end()
        except ChannelClosed:
            return  # The peer has answered meanwhile, or is gone: the inbox says which.
        if count == SMALL_READ == len(self._buffer):
            self._buffer = memoryview(buffer(LARGE_READ))
        elif 0 < count < SMALL_READ and self._sock.family != _socket.AF_UNIX:
            # Servers that write head and body apart wait for this, with Nagle's algorithm, 40 ms on every answer.
            self._sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_QUICKACK, 1)

    # -- from the stream to the socket

    def _from_stream(self) -> None:
        self._more = False
        for _ in range(TURN):
            if self._pending and not self._write():
                return
            message = None if self._answered else self._stream.try_receive()
            if message is None:
                return
            self._take(message)
        self._more = True

    def _take(self, message: Message) -> None:
        if isinstance(message, Data):
            self._pending = memoryview(message.data)
        elif isinstance(message, End | StreamResult):
            if self._hearing:
                self._hearing = False
                self._sock.shutdown(_socket.SHUT_WR)
            if isinstance(message, StreamResult):
                self._answered, self._reading = True, False

    def _write(self) -> bool:
        """Write once. False when the socket takes no more for now."""
        try:
            count = self._sock.send(self._pending)
        except BlockingIOError:
            return False
        self.written += count
        self._pending = self._pending[count:]
        return not self._pending


def close_socket(sock: _socket.socket, *, abort: bool) -> None:
    """Close `sock`; with `abort` its peer gets a reset and not an end."""
    if abort and sock.family != _socket.AF_UNIX:
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_LINGER, _ABORT)
    sock.close()


def _prepare(sock: _socket.socket) -> None:
    sock.setblocking(False)
    if sock.family != _socket.AF_UNIX:
        sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
