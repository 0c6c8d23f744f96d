"""lines: a part of a file by its lines. What stands before them is passed over in pieces and never sent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import chain
from typing import Any

from pyro_mcp.guest.flow import Flow
from pyro_mcp.guest.tree.reading import HASH_LIMIT, PIECE
from pyro_mcp.protocol.digest import sha256

MAX_CUT = 10_000
"""How many lines that were cut are named."""


def send_lines(fd: int, flow: Flow, *, first: int, count: int, max_: int, max_line: int) -> dict[str, Any]:
    """Send `count` lines of `fd` from line `first` on, in at most `max_` bytes, and of each at most `max_line`.

    Only what tells digest and number of lines is read beyond them, and only where that is cheap.
    """
    tally = _Tally()
    pieces = tally.pieces(fd, flow)
    offset, rest = _find(pieces, first)
    sender = _Sender(flow, first, count, max_, max_line)
    for piece in chain([rest], pieces):
        sender.take(piece)
        if sender.done:
            break
    status = os.fstat(fd)
    if status.st_size <= HASH_LIMIT:
        for _ in pieces:
            if tally.seen > HASH_LIMIT:  # It grows while it is read.
                break
    sender.finish()
    size = tally.seen if tally.complete else max(status.st_size, tally.seen)
    end = offset + sender.used
    return {
        "size_bytes": size,
        "truncated": end < size,
        "sha256": tally.digest.hexdigest() if tally.complete and tally.seen <= HASH_LIMIT else None,
        "binary": tally.nul,
        "offset": offset,
        "next_offset": end,
        "next_line": sender.line,
        "line_count": tally.lines if tally.complete else None,
        "cut": sender.cut,
    }


class _Tally:
    """What has been seen of a file, piece by piece; `complete` at its end."""

    def __init__(self) -> None:
        self.seen = 0
        self.complete = False
        self.nul = False
        self.digest = sha256()
        self._breaks = 0
        self._last = b"\n"

    @property
    def lines(self) -> int:
        return self._breaks + (self._last != b"\n")

    def pieces(self, fd: int, flow: Flow) -> Iterator[bytes]:
        while piece := os.read(fd, PIECE):
            flow.check()
            self.seen += len(piece)
            if self.seen <= HASH_LIMIT:
                self.digest.update(piece)
            self.nul = self.nul or b"\0" in piece
            self._breaks += piece.count(b"\n")
            self._last = piece[-1:]
            yield piece
        self.complete = True


def _find(pieces: Iterator[bytes], first: int) -> tuple[int, bytes]:
    """Where the line `first` begins, and what of its piece follows; where the file ends when there is no such line."""
    line, offset = 1, 0
    for piece in pieces:
        breaks = piece.count(b"\n")
        if line + breaks >= first:
            rest = piece.split(b"\n", first - line)[-1]
            return offset + len(piece) - len(rest), rest
        line, offset = line + breaks, offset + len(piece)
    return offset, b""


class _Sender:
    """Sends lines until there are enough. `used` counts the bytes up to where it stopped, `line` is the one there."""

    def __init__(self, flow: Flow, line: int, count: int, max_: int, max_line: int) -> None:
        self.line = line
        self.used = 0
        self.done = False
        self.cut: list[tuple[int, int]] = []
        self._flow = flow
        self._count = count
        self._room = max_
        self._max_line = max_line
        self._shown = 0
        self._dropped = 0
        """Of the line under way: how many bytes were sent, and how many left out."""

    def take(self, piece: bytes) -> None:
        """Send what is wanted of the next piece."""
        at, out = 0, []
        while at < len(piece) and not self.done:
            stop = piece.find(b"\n", at) + 1
            out.append(self._part(piece[at : stop or len(piece)]))
            at = stop or len(piece)
        self._flow.send(b"".join(out))

    def finish(self) -> None:
        """The line under way, if any, does not go on."""
        if self._dropped and len(self.cut) < MAX_CUT:
            self.cut.append((self.line, self._dropped))

    def _part(self, part: bytes) -> bytes:
        """What is sent of a part of a line, which ends there if the part ends in a line break."""
        ended = part.endswith(b"\n")
        body = part[:-1] if ended else part
        kept = body[: self._max_line - self._shown] + part[len(body) :]
        if len(kept) > self._room:
            # Cut by the room: the rest of the line is left for the next answer.
            self.done = True
            self.used += self._room
            return kept[: self._room]
        self.used += len(part)
        self._room -= len(kept)
        self._shown += len(kept) - ended
        self._dropped += len(part) - len(kept)
        if ended:
            self.finish()
            self.line, self._count, self._shown, self._dropped = self.line + 1, self._count - 1, 0, 0
            self.done = not self._count
        return kept
