"""Journal: a command's output on disk, in bounds, readable from any offset while it is being written.

Each stream is one plain file. Past `HEAD_BYTES` only the latest (`ring`) are kept aside, in a second file that is
written round and round, and follow a line that says how much is missing once the command has ended. A cursor is the
reader's place in both streams, `"OUT:ERR"`.

A node that dies leaves both files; from the positions in its `Checkpoint` the next one goes on. What had been written
beyond these is written again, the same.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pyro_mcp.engine.commands.capture import Capture, Captured
from pyro_mcp.engine.commands.checkpoint import StreamOffset
from pyro_mcp.engine.commands.ring import JournalRing
from pyro_mcp.model.count import count_of
from pyro_mcp.model.cursor import parse_cursor
from pyro_mcp.model.text import without_broken_end
from pyro_mcp.operations.call import STDERR, STDOUT
from pyro_mcp.system.atomic import disk_errors, make_directory

_log = logging.getLogger(__name__)

HEAD_BYTES = 8 * 1024 * 1024
PIECE = 256 * 1024
TORN_MAX = 3
"""So many bytes may be the beginning of a character; more that are none are output as they are."""
_SUFFIXES = {STDOUT: "out", STDERR: "err"}


@dataclass(frozen=True)
class Reading:
    """What was read of both streams, where to go on, and whether there is more there already."""

    streams: dict[int, Captured]
    next_cursor: str
    more: bool = False

    @property
    def empty(self) -> bool:
        return not any(stream.text for stream in self.streams.values())


class Journal:
    """The writer of one command's output. `directory` is made when there is something to write.

    `offsets`, if given, are where an earlier writer was; they are kept current.
    """

    def __init__(self, directory: Path, sequence: int, offsets: dict[int, StreamOffset] | None = None) -> None:
        self._moved = threading.Condition()
        offsets = offsets or {}
        self._writers = {
            tag: _Writer(path_of(directory, sequence, tag), offsets.get(tag) or StreamOffset()) for tag in _SUFFIXES
        }
        self._finished = False

    def add(self, tag: int, data: bytes) -> None:
        """Take the next piece. A disk that is full drops output, counted, and never the command."""
        self._writers[tag].add(data)
        with self._moved:
            self._moved.notify_all()

    def finish(self) -> dict[int, int]:
        """Make it durable and mark it as complete; the dropped bytes of each stream. May be repeated by
        the next node, until `settled`."""
        dropped = {tag: writer.finish() for tag, writer in self._writers.items()}
        self.close()
        return dropped

    @property
    def kept(self) -> dict[int, int]:
        """How many bytes of each stream are kept, once it is finished."""
        return {tag: writer.kept for tag, writer in self._writers.items()}

    def settled(self) -> None:
        """The outcome is recorded: what only another node would have needed goes."""
        for writer in self._writers.values():
            writer.tail_path.unlink(missing_ok=True)

    def leave(self) -> None:
        """Leave it as it is to the next node."""
        for writer in self._writers.values():
            writer.close()
        self.close()

    def close(self) -> None:
        """Let nobody wait for more."""
        with self._moved:
            self._finished = True
            self._moved.notify_all()

    @property
    def finished(self) -> bool:
        """Whether nothing more will come."""
        return self._finished

    def wait(
        self, cursor: str, seconds: float, given_up: Callable[[], bool] = lambda: False, *, enough: float = 1
    ) -> bool:
        """Wait until there are `enough` bytes of whole characters past `cursor`, or nothing more will come; False when
        neither has happened in time, or when `given_up` was true after a `wake`."""
        at = _positions(cursor)

        def news() -> bool:
            return self._finished or sum(self._writers[tag].past(at[tag]) for tag in _SUFFIXES) >= enough

        with self._moved:
            self._moved.wait_for(lambda: news() or given_up(), seconds)
            return news()

    def wake(self) -> None:
        """Let whoever waits look again."""
        with self._moved:
            self._moved.notify_all()


class _Writer:
    def __init__(self, path: Path, offset: StreamOffset) -> None:
        self.tail_path = _tail_of(path)
        self._path = path
        self._position = offset
        self._descriptor = -1
        self._tail: JournalRing | None = None
        self._complained = False
        self._noted = 0

    @property
    def size(self) -> int:
        return self._position.size

    def past(self, offset: int) -> int:
        """How much a page from `offset` on would hold. Of much, the end may be the beginning of a character."""
        ahead = max(0, self.size - offset)
        return len(without_broken_end(_read(self._path, offset, ahead))) if 0 < ahead <= TORN_MAX else ahead

    @property
    def kept(self) -> int:
        return self.size - self._noted

    def add(self, data: bytes) -> None:
        room = 0 if self._position.tailed else max(0, HEAD_BYTES - self.size)
        if room:
            self._write(data[:room])
        if len(data) > room:
            self._set_aside(data[room:])

    def finish(self) -> int:
        """The number of bytes that were dropped."""
        missing = 0
        if self._position.tailed:
            tail = self._kept_aside()
            missing = self._position.tailed - len(tail)
            if missing:
                before = self.size
                self._write(f"\n[pyro: {count_of(missing, 'byte')} dropped here]\n".encode())
                self._noted = self.size - before
            self._write(tail)
        if self._descriptor >= 0:
            try:
                if self._position.tailed:
                    os.ftruncate(self._descriptor, self.size)
                os.fdatasync(self._descriptor)
            except OSError as error:
                _log.warning(f"cannot make {self._path} durable: {error}")
        self.close()
        return missing + self._position.lost

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if self._tail is not None:
            self._tail.close()

    def _set_aside(self, data: bytes) -> None:
        try:
            self._tail = self._tail or JournalRing(self.tail_path, self._position.tailed)
            self._tail.write(data, self._position.tailed)
        except OSError as error:
            # The next piece begins another one: what a ring holds is whole.
            self._complain(self.tail_path, error)
            self._drop_tail()
        self._position.tailed += len(data)

    def _kept_aside(self) -> bytes:
        try:
            self._tail = self._tail or JournalRing(self.tail_path, self._position.tailed)
            return self._tail.read(self._position.tailed)
        except OSError as error:
            self._complain(self.tail_path, error)
            return b""

    def _drop_tail(self) -> None:
        if self._tail is not None:
            self._tail.close()
            self._tail = None
        self.tail_path.unlink(missing_ok=True)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            if self._descriptor < 0 and data:
                make_directory(self._path.parent)
                flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
                self._descriptor = os.open(self._path, flags, 0o600)
            while view:
                count = os.pwrite(self._descriptor, view, self._position.size)
                self._position.size += count
                view = view[count:]
        except OSError as error:
            self._complain(self._path, error)
            self._position.lost += len(view)

    def _complain(self, path: Path, error: OSError) -> None:
        if not self._complained:
            _log.warning(f"cannot write {path}: {error}")
        self._complained = True


def offsets_left(directory: Path, sequence: int) -> dict[int, StreamOffset]:
    """Where a writer was that died without a checkpoint, as far as its files show."""
    return {tag: _place_left(path_of(directory, sequence, tag)) for tag in _SUFFIXES}


def _place_left(path: Path) -> StreamOffset:
    offset, tail_path = StreamOffset(), _tail_of(path)
    try:
        if path.exists():
            offset.size = path.stat().st_size
        if tail_path.exists():
            ring = JournalRing(tail_path, 0)
            offset.size, offset.tailed = min(offset.size, HEAD_BYTES), ring.end
            ring.close()
    except OSError as error:
        _log.warning(f"cannot read {path}: {error}")
    return offset


def _tail_of(path: Path) -> Path:
    return path.with_suffix(f"{path.suffix}.tail")


def path_of(directory: Path, sequence: int, tag: int) -> Path:
    return directory / f"{sequence}.{_SUFFIXES[tag]}"


def _positions(cursor: str) -> dict[int, int]:
    out, err = parse_cursor(cursor)
    return {STDOUT: out, STDERR: err}


def read_page(directory: Path, sequence: int, cursor: str, limit: int, *, done: bool) -> Reading:
    """At most `limit` bytes from `cursor` on, of which each stream gets at least half if it has as much, nothing left
    out; `done`: nothing more will be written."""
    at = _positions(cursor)
    found = {tag: _read(path_of(directory, sequence, tag), at[tag], limit + 1) for tag in _SUFFIXES}
    streams, more = {}, False
    for tag, other in ((STDOUT, STDERR), (STDERR, STDOUT)):
        room = max(limit // 2, limit - len(found[other]), 1)
        data, last = found[tag][:room], len(found[tag]) <= room
        whole = without_broken_end(data)
        # A character that is cut comes with the next page, unless this is all there ever will be.
        data = data if done and last else whole or (data if len(data) > TORN_MAX else whole)
        at[tag] += len(data)
        more = more or not last
        capture = Capture(limit)
        capture.add(data)
        streams[tag] = capture.finish()
    return Reading(streams, f"{at[STDOUT]}:{at[STDERR]}", more)


def read_digest(directory: Path, sequence: int, limit: int, *, done: bool) -> Reading:
    """The first and last part of each stream, at most `limit` bytes; the cursor is where it ends now."""
    streams, at = {}, {}
    for tag in _SUFFIXES:
        streams[tag], at[tag] = _digest(path_of(directory, sequence, tag), limit, done)
    return Reading(streams, f"{at[STDOUT]}:{at[STDERR]}")


def read_gone(dropped: dict[int, int], cursor: str | None) -> Reading:
    """A line in place of dropped output that says how much it was. Reading on gives nothing."""
    at = _positions(cursor or "0:0")
    streams = {}
    for tag in _SUFFIXES:
        reported = dropped[tag] > at[tag]
        text = (
            f"[pyro: {count_of(dropped[tag], 'byte')} dropped: later output has taken their place]\n"
            if reported
            else ""
        )
        streams[tag] = Captured(text, 0, False)
        at[tag] = max(at[tag], dropped[tag])
    return Reading(streams, f"{at[STDOUT]}:{at[STDERR]}")


def remove_output(directory: Path, sequence: int) -> None:
    """Remove what is on disk of a command that is over. Raises `OSError`."""
    for tag in _SUFFIXES:
        path_of(directory, sequence, tag).unlink(missing_ok=True)


def _digest(path: Path, limit: int, done: bool) -> tuple[Captured, int]:
    capture, offset = Capture(limit), 0
    while data := _read(path, offset, PIECE):
        if len(data) < PIECE and not done:
            data = without_broken_end(data)
            if not data:
                break
        capture.add(data)
        offset += len(data)
        if len(data) < PIECE and not done:
            break
    return capture.finish(), offset


def _read(path: Path, offset: int, count: int) -> bytes:
    with disk_errors("read what a command said"):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return b""
        try:
            return os.pread(descriptor, count, offset)
        finally:
            os.close(descriptor)
