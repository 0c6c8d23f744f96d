"""attach: a person at a terminal. Keys come in, output goes out as it comes, on the request's own thread."""

from __future__ import annotations

import select
import time

from pyro_mcp.guest.errors import AgentError
from pyro_mcp.guest.terminals.pty import Follower, Pty, Pump
from pyro_mcp.protocol.channel import Data, End, Stream
from pyro_mcp.protocol.wake import Wake

PIECE_BYTES = 32 * 1024


class Attachment:
    """A peer at a shell: one loop on the request's thread over keys, output and the end."""

    def __init__(self, pump: Pump, pty: Pty, stream: Stream, cursor: int) -> None:
        self.missed = 0
        self._pump = pump
        self._pty = pty
        self._stream = stream
        self._wake = Wake()
        self._follower = Follower(cursor, self._wake.set)
        self._keys = memoryview(b"")
        self._poll = select.poll()
        self._poll.register(self._wake.fd, select.POLLIN)
        self._watched = False
        stream.watch(self._wake.set)
        with self._pty.condition:
            self._pty.followers.append(self._follower)

    @property
    def cursor(self) -> int:
        return self._follower.cursor

    def close(self) -> None:
        with self._pty.condition:
            self._pty.followers.remove(self._follower)
        self._pump.moved(self._pty)
        self._stream.watch(None)
        self._wake.close()

    def run(self) -> bool:
        """Serve until the end; whether the peer has left before the shell."""
        while True:
            self._wake.clear()
            if self._stream.cancelled:
                raise AgentError("cancelled", "cannot attach to the shell: it was cancelled")
            done = self._pty.ended
            if self._take_keys():
                return not done
            if not self._give_output() and done:
                return False
            self._poll.poll()

    def _take_keys(self) -> bool:
        """Type what has come. True when the peer has ended its input."""
        while True:
            if not self._keys:
                message = self._stream.try_receive()
                if isinstance(message, End):
                    return True
                if not isinstance(message, Data):
                    self._watch(False)
                    return False
                self._keys = memoryview(message.data)
            try:
                count = self._pty.write(self._keys)
            except OSError:
                # Nobody is there to read them any more.
                count = len(self._keys)
            self._keys = self._keys[count:]
            if not count:
                self._watch(True)
                return False

    def _watch(self, watch: bool) -> None:
        """Whether to wait for room in the terminal's input."""
        if watch != self._watched:
            self._watched = watch
            if watch:
                self._poll.register(self._pty.master, select.POLLOUT)
            else:
                self._poll.unregister(self._pty.master)

    def _give_output(self) -> bool:
        """Send what there is as far as the peer takes it. True when more is left."""
        follower = self._follower
        while (room := self._stream.room) > 0:
            with self._pty.condition:
                ring = self._pty.ring
                self.missed += max(0, ring.start - follower.cursor)
                follower.cursor = max(ring.start, follower.cursor)
                data = ring.read(follower.cursor, min(room, PIECE_BYTES))
            if not data:
                return False
            self._stream.send(data, 1)
            follower.cursor += len(data)
            follower.moved_at = time.monotonic()
            self._pump.moved(self._pty)
        return True
