"""Text that arrives in pieces of bytes."""

from __future__ import annotations


def without_broken_end(data: bytes) -> bytes:
    """Without a character that the cut has halved."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte >= 0xC0:
            width = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return data[:-back] if width > back else data
        if byte < 0x80:
            break
    return data
