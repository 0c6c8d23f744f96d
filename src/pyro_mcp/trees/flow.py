"""Flow: the members of a tree as the bytes that travel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pyro_mcp.protocol.entries import Encoder, Entry, Piece


def encoded(items: Iterable[Entry | Piece]) -> Iterator[bytes]:
    """The whole sequence, its end included, as it is wanted. Raises `EntryError` for what no decoder takes."""
    ready: list[bytes] = []
    encoder = Encoder(lambda data: ready.append(bytes(data)))
    for item in items:
        if isinstance(item, Entry):
            encoder.entry(item)
        else:
            encoder.data(item.data)
        yield from ready
        ready.clear()
    encoder.finish()
    yield from ready
