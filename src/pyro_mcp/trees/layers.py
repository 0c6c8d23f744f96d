"""A tree put together on this host: what a guest says has changed, and of the rest what the seed holds."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator

from pyro_mcp.model.sync import Skipped
from pyro_mcp.protocol.entries import MAX_EXTENTS, TOO_DEEP, Entry, Piece, fits
from pyro_mcp.trees.ext4_reader import SeedImage, SeedNode


def merged(
    upper: Iterable[Entry | Piece], seed: SeedImage, lower: str | None, skipped: list[Skipped]
) -> Iterator[Entry | Piece]:
    """The entries that an overlay has in its `upper` directory, without its marks, then what they do not hide of the
    seed's directory `lower` (None for nothing), and of those that a renamed directory still shows. `skipped` gets what
    a renamed directory has taken too deep.

    Raises what `upper` and `seed` raise.
    """
    taken: set[str] = set()
    shown: dict[str, str | None] = {"": lower}
    """By directory of the upper layer, what it shows of the seed."""
    for item in upper:
        if isinstance(item, Entry):
            if item.type == "opaque":
                shown[item.path] = None
            elif item.type == "redirect":
                shown[item.path] = _below(shown, item.path, item.target)
            elif item.type == "directory":
                shown[item.path] = _below(shown, item.path, os.path.basename(item.path))
            else:
                taken.add(item.path)
            if item.type in ("opaque", "redirect", "whiteout"):
                continue
        yield item
    names: dict[int, str] = {}
    taken |= shown.keys()
    for path, below in shown.items():
        base = None if below is None else seed_directory(seed, below)
        if base is not None:
            yield from _rest(seed, path, base, taken, names, skipped)


def seed_directory(seed: SeedImage, path: str, start: SeedNode | None = None) -> SeedNode | None:
    """The seed's directory of that path below its root or `start`; None when there is none."""
    node = start or seed.root
    for part in os.fsencode(path).split(b"/") if path else ():
        number = next((number for name, number in seed.names(node) if name == part), None)
        if number is None:
            return None
        node = seed.node(number)
        if not node.is_directory:
            return None
    return node if node.is_directory else None


def _below(shown: dict[str, str | None], path: str, target: str) -> str | None:
    """What of the seed a directory shows that is merged with `target`, which stands beside what its parent shows."""
    if target.startswith("/"):
        return target[1:]
    above = shown.get(os.path.dirname(path))
    return None if above is None else f"{above}/{target}" if above else target


def _rest(
    seed: SeedImage, root: str, base: SeedNode, taken: set[str], names: dict[int, str], skipped: list[Skipped]
) -> Iterator[Entry | Piece]:
    pending = [(root, base)]
    while pending:
        above, directory = pending.pop()
        for raw, number in sorted(seed.names(directory)):
            name = os.fsdecode(raw)
            path = f"{above}/{name}" if above else name
            if path in taken:
                continue
            if not fits(os.fsencode(path)):
                skipped.append(Skipped(path=path[:1024], reason=TOO_DEEP))
                continue
            node = seed.node(number)
            if node.is_directory:
                pending.append((path, node))
                yield Entry(path, "directory", stat.S_IMODE(node.mode), node.mtime_ns, xattrs=seed.xattrs(node))
            else:
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
