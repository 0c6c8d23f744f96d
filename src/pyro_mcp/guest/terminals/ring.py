"""ring: the end of an endless byte stream, numbered from its first byte.

Memory is bounded whatever is added and in whatever pieces: tiny ones are joined, and whole blocks go from the front
while the rest still holds what is promised.
"""

from __future__ import annotations

from collections import deque

RING_BYTES = 1024 * 1024
_BLOCK = 64 * 1024


class OutputRing:
    """Keeps at least the last `size` bytes, and at most one block more. Not locked: its owner is."""

    def __init__(self, size: int = RING_BYTES) -> None:
        self.start = 0
        """The number of the first byte that is still here."""
        self.end = 0
        """The number that the next byte gets."""
        self._size = size
        self._blocks: deque[bytearray] = deque([bytearray()])

    def add(self, data: bytes | memoryview) -> None:
        """Take the next piece."""
        last = self._blocks[-1]
        if len(last) >= _BLOCK:
            last = bytearray()
            self._blocks.append(last)
        last += data
        self.end += len(data)
        self._trim()

    def shrink(self, size: int) -> None:
        """Keep no more than `size` bytes from now on; nothing is added any more."""
        self._size = size
        kept = self.read(max(self.start, self.end - size), size)
        self._blocks = deque([bytearray(kept)])
        self.start = self.end - len(kept)

    def read(self, begin: int, limit: int) -> bytes:
        """Up to `limit` bytes from number `begin` on, or from the first that is here."""
        at = max(begin, self.start) - self.start
        pieces: list[bytearray] = []
        for block in self._blocks:
            if at >= len(block):
                at -= len(block)
                continue
            piece = block[at : at + limit]
            pieces.append(piece)
            limit -= len(piece)
            at = 0
            if limit <= 0:
                break
        return b"".join(pieces)

    def _trim(self) -> None:
        while self.end - self.start - len(self._blocks[0]) >= self._size:
            self.start += len(self._blocks.popleft())
