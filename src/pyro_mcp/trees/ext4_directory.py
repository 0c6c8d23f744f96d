"""A directory of an ext4 image: its names as blocks, with the index by hash that makes a large one quick."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from pyro_mcp.model.count import count_of
from pyro_mcp.trees.ext4_format import BLOCK

FILE, DIRECTORY, SYMLINK = 1, 2, 7
Name = tuple[bytes, int, int]
"""(name, inode, kind)."""

_HEAD = struct.Struct("<IHBB")
_INDEX = struct.Struct("<II")
_ROOT_MAX, _NODE_MAX = (BLOCK - 32) // 8, (BLOCK - 8) // 8
_END_OF_HASHES = 0x7FFFFFFF << 1


def directory_blocks(own: int, parent: int, names: Sequence[Name]) -> tuple[list[bytes], bool]:
    """The blocks of directory `own`, and whether the first one is an index. Names must be apart."""
    dots = [(b".", own, DIRECTORY), (b"..", parent, DIRECTORY)]
    flat = _leaves([*dots, *names])
    if len(flat) == 1:
        return flat, False
    return _indexed(dots, names), True


def _leaves(names: Sequence[Name]) -> list[bytes]:
    return [_leaf(part) for part in _parted(names)]


def _parted(names: Sequence[Name]) -> list[list[Name]]:
    parts: list[list[Name]] = [[]]
    used = 0
    for item in names:
        size = _size(item)
        if used + size > BLOCK:
            parts.append([])
            used = 0
        parts[-1].append(item)
        used += size
    return parts


def _size(item: Name) -> int:
    return 8 + (len(item[0]) + 3 & ~3)


def _leaf(names: Sequence[Name]) -> bytes:
    """One block; its last name reaches to the end."""
    pieces, left = [], BLOCK
    for number, item in enumerate(names):
        size = left if number == len(names) - 1 else _size(item)
        name, inode, kind = item
        pieces.append(_HEAD.pack(inode, size, len(name), kind) + name.ljust(size - 8, b"\0"))
        left -= size
    return b"".join(pieces)


def _indexed(dots: Sequence[Name], names: Sequence[Name]) -> list[bytes]:
    hashed = {item[0]: name_hash(item[0]) for item in names}
    parts = _parted(sorted(names, key=lambda item: (hashed[item[0]], item[0])))
    entries, last = [], -1
    for part in parts:
        first = hashed[part[0][0]]
        # The lowest bit says that the names of this hash began in the block before.
        entries.append(first | (first == last))
        last = hashed[part[-1][0]]
    leaves = [_leaf(part) for part in parts]
    if len(leaves) <= _ROOT_MAX:
        places = [(value, number + 1) for number, value in enumerate(entries)]
        return [_root(dots, 0, places), *leaves]
    nodes = range(0, len(leaves), _NODE_MAX)
    if len(nodes) > _ROOT_MAX:
        raise OverflowError(f"a directory of {count_of(len(names), 'name')}")
    first_leaf = 1 + len(nodes)
    inner = [
        _node([(entries[number], first_leaf + number) for number in range(at, min(at + _NODE_MAX, len(leaves)))])
        for at in nodes
    ]
    return [_root(dots, 1, [(entries[at], 1 + number) for number, at in enumerate(nodes)]), *inner, *leaves]


def _root(dots: Sequence[Name], levels: int, places: Sequence[tuple[int, int]]) -> bytes:
    (_, own, kind), (_, parent, _) = dots
    head = _HEAD.pack(own, 12, 1, kind) + b".\0\0\0" + _HEAD.pack(parent, BLOCK - 12, 2, kind) + b"..\0\0"
    info = struct.pack("<IBBBB", 0, 0, 8, levels, 0)  # hash version 0: legacy
    return (head + info + _places(places, _ROOT_MAX)).ljust(BLOCK, b"\0")


def _node(places: Sequence[tuple[int, int]]) -> bytes:
    return (_HEAD.pack(0, BLOCK, 0, 0) + _places(places, _NODE_MAX)).ljust(BLOCK, b"\0")


def _places(places: Sequence[tuple[int, int]], max_: int) -> bytes:
    """The first one's hash is implied: its place holds how many there are."""
    first = struct.pack("<HHI", max_, len(places), places[0][1])
    return first + b"".join(_INDEX.pack(*place) for place in places[1:])


def name_hash(name: bytes) -> int:
    """The kernel's `dx_hack_hash_unsigned`, which costs an interpreter least."""
    one, two = 0x12A3FE2D, 0x37ABE8F9
    for byte in name:
        mixed = two + (one ^ byte * 7152373) & 0xFFFFFFFF
        if mixed & 0x80000000:
            mixed -= 0x7FFFFFFF
        two, one = one, mixed
    value = one << 1 & 0xFFFFFFFF
    return value - 2 if value == _END_OF_HASHES else value
