"""Text that arrives in pieces of bytes, or with bytes in it that are none."""

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


def whole_characters(text: str) -> str:
    """`text` as it can be kept: without the lone surrogates that stand for bytes which are not UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")
