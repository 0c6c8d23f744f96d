"""A tree put together on this host: what a guest says has changed, and of the rest what the seed holds."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator

from pyro_mcp.protocol.entries import MAX_EXTENTS, Entry, Piece
from pyro_mcp.trees.ext4_reader import SeedImage, SeedNode


def merged(upper: Iterable[Entry | Piece], seed: SeedImage, base: SeedNode | None) -> Iterator[Entry | Piece]:
    """The entries of an overlay's `upper` directory without its marks, then what of the seed's directory `base` they do
    not hide. Raises what `upper` and `seed` raise."""
    taken: set[str] = set()
    directories: dict[str, bool] = {}
    """Whether each hides what is below it."""
    for item in upper:
        if isinstance(item, Entry):
            if item.type == "opaque":
                directories[item.path] = True
                continue
            if item.type == "directory":
                directories[item.path] = False
            else:
                taken.add(item.path)
            if item.type == "whiteout":
                continue
        yield item
    if base is not None and base.is_directory:
        yield from _rest(seed, base, taken, directories)


def seed_directory(seed: SeedImage, path: str) -> SeedNode | None:
    """The seed's directory of that path below its root; None when there is none."""
    node = seed.root
    for part in os.fsencode(path).split(b"/") if path else ():
        number = next((number for name, number in seed.names(node) if name == part), None)
        if number is None:
            return None
        node = seed.node(number)
        if not node.is_directory:
            return None
    return node


def _rest(seed: SeedImage, base: SeedNode, taken: set[str], directories: dict[str, bool]) -> Iterator[Entry | Piece]:
    names: dict[int, str] = {}
    pending = [("", base)]
    while pending:
        above, directory = pending.pop()
        for raw, number in sorted(seed.names(directory)):
            name = os.fsdecode(raw)
            path = f"{above}/{name}" if above else name
            hides = directories.get(path)
            if path in taken or hides:
                continue
            node = seed.node(number)
            if node.is_directory:
                pending.append((path, node))
                if hides is None:
                    yield Entry(path, "directory", stat.S_IMODE(node.mode), node.mtime_ns, xattrs=seed.xattrs(node))
            elif hides is None:
                yield from _member(seed, node, path, names)


def _member(seed: SeedImage, node: SeedNode, path: str, names: dict[int, str]) -> Iterator[Entry | Piece]:
    if stat.S_ISLNK(node.mode):
        yield Entry(path, "symlink", 0o777, node.mtime_ns, target=os.fsdecode(seed.target(node)))
        return
    first = names.setdefault(node.number, path) if node.links > 1 else path
    if first != path:
        yield Entry(path, "hardlink", target=first)
        return
    found = tuple((begin, length) for begin, length, _ in seed.extents(node))
    whole = len(found) > MAX_EXTENTS or sum(length for _, length in found) == node.size
    # Without extents a file's holes stay holes all the same: bytes that never come are zero.
    extents = None if whole else found
    about = (stat.S_IMODE(node.mode), node.mtime_ns, node.size)
    yield Entry(path, "file", *about, extents=extents, xattrs=seed.xattrs(node))
    yield from seed.pieces(node)
