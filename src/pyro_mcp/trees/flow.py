"""Sequences on their way through a stream: members to bytes and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from pyro_mcp.protocol.entries import Decoder, Encoder, Entry, Piece
from pyro_mcp.trees.limits import Limits


def send(items: Iterable[Entry | Piece], write: Callable[[bytes], object]) -> tuple[int, int]:
    """Write the whole sequence, its end included; returns how many entries and data bytes went."""
    encoder = Encoder(write)
    for item in items:
        if isinstance(item, Entry):
            encoder.entry(item)
        else:
            encoder.data(item.data)
    encoder.finish()
    return encoder.count, encoder.bytes


def received(chunks: Iterable[bytes | memoryview], limits: Limits | None = None) -> Iterator[Entry | Piece]:
    """What the bytes of `chunks` say. Raises `EntryError` when they are damaged, cut off or too many."""
    bounds = limits or Limits()
    decoder = Decoder(max_entries=bounds.entries, max_bytes=bounds.bytes)
    for chunk in chunks:
        yield from decoder.feed(chunk)
    decoder.close()
