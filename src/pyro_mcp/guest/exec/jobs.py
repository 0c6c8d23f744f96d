"""jobs: commands that outlive the channel over which they were started.

An `AgentJob` stands between a command's loop and its peer and offers the loop the interface of a `Stream`. While the
first peer is there, data goes straight through, and the job keeps only the end of what it has sent: a peer that dies
may have read none of what was still under way. Then the command runs on, its output kept up to a bound and its pipes
left to fill behind that, until `exec_resume` names the offsets from which a later peer wants both streams. What has
ended meanwhile keeps its outcome. A peer that has written an outcome down says so with `exec_forget`.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

from pyro_mcp.guest import params as read
from pyro_mcp.guest.errors import AgentError, invalid
from pyro_mcp.protocol.channel import WIDE, ChannelClosed, Message, Stream
from pyro_mcp.protocol.exchange import SLOT_BYTES

HELD_BYTES = 256 * 1024
"""The most that a peer may hold back of a stream before it counts as read: the longest form of a secret."""
KEEP_BYTES = WIDE + SLOT_BYTES + HELD_BYTES
"""How much of each stream's end is kept once sent: what credit allows to be under way, the message that the peer was
at, and what it held back."""
SLACK_BYTES = 128 * 1024
AWAY_BYTES = 1024 * 1024
"""How much a command may say, both streams together, while no peer takes it. Then its pipes fill."""
PIECE_BYTES = 64 * 1024
RUNNING_MAX = 256
FINISHED_MAX, FINISHED_BYTES = 64, 16 * 1024 * 1024
"""The bounds of what has ended and is kept for a peer that may ask; the oldest goes first."""
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_OFFSET_MAX = 1 << 62


class Jobs:
    """The jobs of one agent by the names that its peers gave them."""

    def __init__(self) -> None:
        self._jobs: dict[str, AgentJob] = {}
        self._lock = threading.Lock()

    def begin(self, name: str, stream: Stream) -> AgentJob:
        """A new job, attended by `stream`, to be ended by `finish`. Raises `ChannelClosed`: a peer that has gone may be
        followed by one that has already got the answer that there is no such job."""
        with self._lock:
            if stream.lost:
                raise ChannelClosed("the peer has gone away")
            if name in self._jobs:
                raise AgentError("conflict", f"cannot exec: there is a job {name} already")
            if sum(not job.done for job in self._jobs.values()) >= RUNNING_MAX:
                raise AgentError("capacity", f"cannot exec: {RUNNING_MAX} jobs are running")
            job = self._jobs[name] = AgentJob(stream)
        return job

    def finish(self, name: str, result: dict[str, Any] | None) -> None:
        """Keep the outcome of a job for whoever asks, within bounds. Without one the job came to nothing."""
        with self._lock:
            job = self._jobs.pop(name)
            job.finish(result)
            if result is not None:
                self._jobs[name] = job
            ended = [name for name, job in self._jobs.items() if job.done]
            size = sum(self._jobs[name].size for name in ended)
            while len(ended) > FINISHED_MAX or size > FINISHED_BYTES:
                size -= self._jobs.pop(ended.pop(0)).size

    def resume(self, stream: Stream) -> dict[str, Any]:
        """job, stdout_offset, stderr_offset → DATA 1 and 2 from there on, then what `exec` answers."""
        name = job_name(stream.params)
        offsets = {
            tag: read.integer(stream.params, field, min_=0, max_=_OFFSET_MAX)
            for tag, field in ((1, "stdout_offset"), (2, "stderr_offset"))
        }
        with self._lock:
            job = self._jobs.get(name or "")
        if job is None:
            raise AgentError("not_found", f"cannot resume the job {name}: there is none of that name")
        return job.resume(stream, offsets)

    def forget(self, stream: Stream) -> dict[str, Any]:
        """job → nothing; what is kept of an ended job goes. One that is not known is gone already."""
        name = job_name(stream.params) or ""
        with self._lock:
            job = self._jobs.get(name)
            if job is not None and not job.done:
                raise AgentError("conflict", f"cannot forget the job {name}: it is running")
            self._jobs.pop(name, None)
        return {}


def job_name(params: dict[str, Any]) -> str | None:
    """The name that `job` gives, if it is there."""
    name = params.get("job")
    if name is None:
        return None
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise invalid(f"job must match {_NAME.pattern}")
    return name


class AgentJob:
    """One command's connection to its peers, of which it has at most one at a time."""

    def __init__(self, stream: Stream) -> None:
        self._condition = threading.Condition()
        self._first: Stream | None = stream
        self._later: Stream | None = None
        self._tails = {1: _Tail(), 2: _Tail()}
        self._cancelled = False
        self._done = False
        self._result: dict[str, Any] | None = None
        self._kill: Callable[[], None] | None = None
        self._expire: Callable[[], None] | None = None
        self._wake: Callable[[], None] | None = None

    # -- towards the command's loop: what a `Stream` has

    @property
    def cancelled(self) -> bool:
        """Whether a peer has asked for the end. That one has gone away is none."""
        return self._cancelled

    @property
    def room(self) -> int:
        """How many bytes `send` takes now."""
        stream = self._first
        if stream is not None:
            try:
                return stream.room
            except ChannelClosed:
                self._detach(stream)
        with self._condition:
            return max(0, AWAY_BYTES - sum(tail.unsent for tail in self._tails.values()))

    def send(self, data: bytes | memoryview, tag: int) -> None:
        """Take `data` in, and pass it on if the first peer is still there; a later one fetches it."""
        stream = self._first
        with self._condition:
            self._tails[tag].add(data)
            self._condition.notify_all()
        if stream is None:
            return
        try:
            stream.send(data, tag)
        except ChannelClosed:
            self._detach(stream)
            return
        with self._condition:
            if self._first is stream:
                self._tails[tag].pass_on(len(data))

    def try_receive(self) -> Message | None:
        """Nothing: a job has no input."""
        return None

    def on_cancel(self, callback: Callable[[], None] | None) -> None:
        """Call `callback` when a peer cancels."""
        self._kill = callback
        stream = self._first
        if stream is not None:
            stream.on_cancel(None if callback is None else lambda: self._cancelled_by(stream))
        if callback is not None and self._cancelled:
            callback()

    def on_expire(self, callback: Callable[[], None] | None) -> None:
        """Call `callback` when a peer says that the time is up."""
        self._expire = callback
        stream = self._first
        if stream is not None:
            stream.on_expire(self._expired if callback else None)

    def watch(self, callback: Callable[[], None] | None) -> None:
        """Call `callback` when there is room, or the first peer has gone."""
        self._wake = callback
        stream = self._first
        if stream is not None:
            stream.watch(callback)

    # -- towards a later peer

    def resume(self, stream: Stream, offsets: dict[int, int]) -> dict[str, Any]:
        """Send both streams from `offsets` on until the command's end; its result. Raises `ChannelClosed`."""
        self._claim(stream, offsets)
        try:
            stream.watch(self._news)
            stream.on_cancel(lambda: self._cancelled_by(stream))
            stream.on_expire(self._expired)
            while True:
                found = self._next(stream)
                if found is None:
                    if self._result is None:
                        raise AgentError("internal", "cannot resume the job: it could not be run")
                    return self._result
                tag, piece = found
                stream.send(piece, tag)
                with self._condition:
                    if self._later is stream:
                        self._tails[tag].pass_on(len(piece))
                self._wake_loop()
        finally:
            stream.on_cancel(None)
            stream.on_expire(None)
            stream.watch(None)
            with self._condition:
                if self._later is stream:
                    self._later = None

    def _claim(self, stream: Stream, offsets: dict[int, int]) -> None:
        with self._condition:
            present = self._first or self._later
            # Over, the first has only its answer still to get, and may be gone without anybody having noticed.
            if present is not None and not present.lost and not (self.done and present is self._first):
                raise AgentError("conflict", "cannot resume the job: somebody attends it")
            for tag, offset in offsets.items():
                self._tails[tag].require(offset)
            for tag, offset in offsets.items():
                self._tails[tag].rewind(offset)
            self._first, self._later = None, stream

    def _next(self, stream: Stream) -> tuple[int, bytes] | None:
        """What to send next, once there is something; None at the end."""
        with self._condition:
            while True:
                if stream.lost or self._later is not stream:
                    raise ChannelClosed("the peer has gone away")
                for tag, tail in self._tails.items():
                    if tail.unsent:
                        return tag, tail.piece()
                if self._done:
                    return None
                self._condition.wait()

    # -- both

    @property
    def done(self) -> bool:
        return self._done

    @property
    def size(self) -> int:
        """How many bytes it keeps."""
        return sum(tail.size for tail in self._tails.values())

    def finish(self, result: dict[str, Any] | None) -> None:
        """The command has ended and all that it said has been sent here."""
        with self._condition:
            self._result, self._done = result, True
            self._condition.notify_all()

    def _cancelled_by(self, stream: Stream) -> None:
        if not stream.lost:
            self._cancelled = True
            kill = self._kill
            if kill is not None:
                kill()
            self._wake_loop()

    def _expired(self) -> None:
        expire = self._expire
        if expire is not None:
            expire()

    def _detach(self, stream: Stream) -> None:
        with self._condition:
            if self._first is stream:
                self._first = None

    def _wake_loop(self) -> None:
        wake = self._wake
        if wake is not None:
            wake()

    def _news(self) -> None:
        with self._condition:
            self._condition.notify_all()


class _Tail:
    """The end of one stream: what was sent last, then what was not sent yet. Offsets count from the stream's start."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._start = 0
        self._sent = 0

    @property
    def size(self) -> int:
        return len(self._data)

    @property
    def unsent(self) -> int:
        return self._start + len(self._data) - self._sent

    def add(self, data: bytes | memoryview) -> None:
        self._data += data

    def pass_on(self, count: int) -> None:
        """So many more bytes have been sent; what nobody can ask for any more goes."""
        self._sent += count
        excess = self._sent - KEEP_BYTES - self._start
        if excess > SLACK_BYTES:
            del self._data[:excess]
            self._start += excess

    def piece(self) -> bytes:
        at = self._sent - self._start
        return bytes(self._data[at : at + PIECE_BYTES])

    def require(self, offset: int) -> None:
        end = self._start + len(self._data)
        if not self._start <= offset <= end:
            raise invalid(f"cannot resume the job: offset {offset} is not within {self._start} to {end}, which is kept")

    def rewind(self, offset: int) -> None:
        self._sent = offset
