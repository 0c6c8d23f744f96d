"""Capture: the beginning and the end of an output stream of any length, in bounded memory.

What a command says first (what it is doing) and last (why it failed) matters; the middle of a flood does not. The
number of bytes left out is always reported.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from pyro_mcp.model.count import count_of
from pyro_mcp.model.text import without_broken_end

CAPTURE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Captured:
    """A captured stream as text. `lossy`: it was not UTF-8 and bytes were replaced."""

    text: str
    dropped_bytes: int
    lossy: bool


class Capture:
    """Keeps at most `limit` bytes: the first `head`, half by default, and the last of the rest."""

    def __init__(self, limit: int = CAPTURE_BYTES, *, head: int | None = None) -> None:
        self._head_room = limit // 2 if head is None else head
        self._tail_room = limit - self._head_room
        self._head = bytearray()
        self._tail: deque[bytes] = deque()
        self._tail_size = 0
        self._total = 0

    def add(self, data: bytes) -> None:
        """Take the next piece."""
        self._total += len(data)
        room = self._head_room - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        if data:
            self._tail.append(data)
            self._tail_size += len(data)
            # Whole pieces go while the rest still fills the tail, so a flood costs no copying.
            while self._tail_size - len(self._tail[0]) >= self._tail_room:
                self._tail_size -= len(self._tail.popleft())
            if len(self._tail) > 4096:
                self._tail = deque([b"".join(self._tail)])

    def raw(self) -> tuple[bytes, int]:
        """What is kept of the end, and how many bytes between it and the head are not."""
        tail = b"".join(self._tail)[-self._tail_room :]
        return tail, self._total - len(self._head) - len(tail)

    def finish(self) -> Captured:
        """The whole as text; where bytes were dropped, a line says how many."""
        head, tail = bytes(self._head), self.raw()[0]
        if self._total == len(head) + len(tail):
            return Captured(*_decode(head + tail, 0))
        head, tail = without_broken_end(head), _without_broken_start(tail)
        dropped = self._total - len(head) - len(tail)
        first, _, lossy_first = _decode(head, dropped)
        last, _, lossy_last = _decode(tail, dropped)
        text = f"{first}\n[pyro: {count_of(dropped, 'byte')} dropped here]\n{last}"
        return Captured(text, dropped, lossy_first or lossy_last)


def _decode(data: bytes, dropped: int) -> tuple[str, int, bool]:
    try:
        return data.decode("utf-8"), dropped, False
    except UnicodeDecodeError:
        return data.decode("utf-8", "replace"), dropped, True


def _without_broken_start(data: bytes) -> bytes:
    start = 0
    while start < min(3, len(data)) and 0x80 <= data[start] < 0xC0:
        start += 1
    return data[start:]
