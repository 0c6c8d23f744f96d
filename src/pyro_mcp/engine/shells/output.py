"""Shell output: one page of a terminal's bytes, or all of them as they come, with secrets masked and no character cut.

A secret may be split over reads. So a page looks back before its cursor, and ends before what may turn out to be the
beginning of a secret; of one that has begun within the page the whole is passed over, the cursor behind it. Output
that was lost before the page may have begun one: the end of a secret is masked there, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pyro_mcp.engine.secrets.redact import MASK, Needles, Span, stretches, undecided
from pyro_mcp.model.text import without_broken_end

SHOWN_BYTES = 3
"""So much of what may be a secret's beginning an attached person sees at once, to see what is typed."""


@dataclass(frozen=True, slots=True)
class Page:
    """Masked bytes: `new` from the cursor on, `before` of what stands before it. `end`: where the next page begins."""

    before: bytes
    new: bytes
    end: int


def reach(needles: Needles) -> int:
    """How far a secret may stretch."""
    return max((len(needle) for needle in needles), default=0)


def page(
    needles: Needles, data: bytes, start: int, cursor: int, max_: int, *, done: bool, lost: bool, context: int
) -> Page:
    """The page of up to `max_` bytes from `cursor` on, of `data` that begins at `start` <= `cursor`.

    `done`: nothing will follow `data`. `lost`: something was lost before it. `context`: how much of what stands before
    the cursor to give, too.
    """
    spans = stretches(needles, data)
    if lost and (tail := _lost_end(needles, data)):
        spans = [(0, tail), *spans]
    last = len(data) if done else undecided(needles, data)
    at = cursor - start
    stop = min(at + max_, max(at, last))
    if not (done and stop == len(data)):
        stop = at + len(without_broken_end(data[at:stop]))
    new, reached = _masked(data, spans, at, stop)
    before, _ = _masked(data, spans, max(0, at - context), at)
    return Page(before, new, start + reached)


class LiveMask:
    """Masks output as it comes, for a person: what may begin a secret is held back, but for its first few bytes once it
    is quiet, without which nobody could see what is typed."""

    def __init__(self, needles: Needles) -> None:
        self._needles = needles
        self._kept = b""
        self._given = 0
        self._gone = 0

    @property
    def position(self) -> int:
        """How many of the bytes fed have been shown, masked or not."""
        return self._gone + self._given

    @property
    def holds(self) -> bool:
        """Whether `quiet` would give something."""
        return self._given < min(SHOWN_BYTES, len(self._kept))

    def feed(self, data: bytes) -> bytes:
        """Take the next piece; what may be shown now."""
        self._kept += data
        return self._give(undecided(self._needles, self._kept))

    def quiet(self) -> bytes:
        """Nothing has come for a moment: the first bytes of what is held back."""
        end = min(SHOWN_BYTES, len(self._kept))
        shown, self._given = self._kept[self._given : end], max(self._given, end)
        return shown

    def finish(self) -> bytes:
        """The rest: nothing follows."""
        return self._give(len(self._kept))

    def _give(self, end: int) -> bytes:
        shown, reached = _masked(self._kept, stretches(self._needles, self._kept), self._given, end)
        self._gone += end
        self._kept, self._given = self._kept[end:], max(0, reached - end)
        return shown


def _masked(data: bytes, spans: Sequence[Span], at: int, stop: int) -> tuple[bytes, int]:
    """`data` from `at` to `stop` with a mask for each secret that touches it, and how far that reaches."""
    pieces = []
    for begin, end in spans:
        if end <= at:
            continue
        if begin >= stop:
            break
        if begin > at:
            pieces.append(data[at:begin])
        pieces.append(MASK)
        at = end
    if at < stop:
        pieces.append(data[at:stop])
        at = stop
    return b"".join(pieces), at


def _lost_end(needles: Needles, data: bytes) -> int:
    """How much of the beginning of `data` may be the end of a secret that began before it."""
    longest = 0
    for needle in needles:
        at = needle.find(data[:1], 1) if data else -1
        while at >= 0 and len(needle) - at > longest:
            if data.startswith(needle[at:]):
                longest = len(needle) - at
                break
            at = needle.find(data[:1], at + 1)
    return longest
