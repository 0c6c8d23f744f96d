"""The blocks of an ext4 image that is being written: given out from the front, and accounted for at the end."""

from __future__ import annotations

import os
from collections.abc import Sequence

from pyro_mcp.errors import Unsupported
from pyro_mcp.trees import ext4_format as ext4

UUID = bytes.fromhex("707972656d637000800000000000001a")
"""Constant, so that equal trees are equal, and not zero, so that an overlay may tell the file system by it."""
_BUFFER = 1 << 20
_PARCEL = 4096
Range = tuple[int, int]


class Disk:
    """Writes to `descriptor`. What follows what was written before goes out in one piece with it."""

    def __init__(self, descriptor: int, device_bytes: int) -> None:
        self.blocks_max = device_bytes // ext4.BLOCK
        groups = -(-self.blocks_max // ext4.GROUP_BLOCKS)
        self.reserved = -(-groups * ext4.DESCRIPTOR_BYTES // ext4.BLOCK)
        """Blocks behind the superblock's, for as many descriptors as the device could need."""
        self.next = 1 + self.reserved
        self._descriptor = descriptor
        self._device_bytes = device_bytes
        self._buffer = bytearray()
        self._at = 0

    def take(self, count: int) -> int:
        """The first of `count` blocks that nobody has."""
        first = self.next
        self.next += count
        self.require(self.next)
        return first

    def require(self, blocks: int) -> None:
        """Raise `Unsupported` unless the device has so many."""
        if blocks > self.blocks_max:
            raise Unsupported(f"cannot make a seed image: it is larger than the {self._device_bytes} bytes of its disk")

    def put(self, data: bytes) -> int:
        """One block that holds `data`."""
        where = self.take(1)
        self.write(where * ext4.BLOCK, data)
        return where

    def write(self, offset: int, data: bytes | memoryview) -> None:
        gap = offset - self._at - len(self._buffer)
        if not self._buffer or not 0 <= gap < ext4.BLOCK:
            self.flush()
            self._at = offset
        elif gap:
            self._buffer += bytes(gap)
        self._buffer += data
        if len(self._buffer) >= _BUFFER:
            self.flush()

    def flush(self) -> None:
        view, offset = memoryview(self._buffer), self._at
        while view:
            count = os.pwrite(self._descriptor, view, offset)
            view, offset = view[count:], offset + count
        self._buffer = bytearray()


def close(disk: Disk, inodes: Sequence[bytes], directories: Sequence[int]) -> None:
    """Write inode tables, bitmaps, descriptors and superblock. `inodes` are packed; `directories` are some of their
    numbers."""
    groups, per_group = _groups(disk, len(inodes))
    table_blocks = per_group // ext4.INODES_PER_BLOCK
    bitmaps, inode_bitmaps, tables = (disk.take(count) for count in (groups, groups, groups * table_blocks))
    total = min(groups * ext4.GROUP_BLOCKS, disk.blocks_max)
    held = 1 + -(-groups * ext4.DESCRIPTOR_BYTES // ext4.BLOCK)
    taken = _by_group(((0, held), (1 + disk.reserved, disk.next)), groups, ext4.GROUP_BLOCKS)
    used = [inside[0][1] for inside in _by_group(((0, len(inodes)),), groups, per_group)]
    sizes = [min(ext4.GROUP_BLOCKS, total - group * ext4.GROUP_BLOCKS) for group in range(groups)]
    free = [size - sum(end - begin for begin, end in inside) for size, inside in zip(sizes, taken, strict=True)]
    dirs = [0] * groups
    for number in directories:
        dirs[(number - 1) // per_group] += 1
    disk.write(bitmaps * ext4.BLOCK, b"".join(map(ext4.pack_bitmap, taken, sizes)))
    disk.write(inode_bitmaps * ext4.BLOCK, b"".join(ext4.pack_bitmap([(0, count)], per_group) for count in used))
    for start in range(0, len(inodes), _PARCEL):
        disk.write(tables * ext4.BLOCK + start * ext4.INODE_BYTES, b"".join(inodes[start : start + _PARCEL]))
    descriptors = [
        ext4.pack_descriptor(
            bitmap=bitmaps + group,
            inode_bitmap=inode_bitmaps + group,
            table=tables + group * table_blocks,
            free_blocks=free[group],
            free_inodes=per_group - used[group],
            dirs=dirs[group],
        )
        for group in range(groups)
    ]
    free_inodes = groups * per_group - len(inodes)
    superblock = ext4.pack_superblock(
        blocks=total, free_blocks=sum(free), per_group=per_group, free_inodes=free_inodes, groups=groups, uuid=UUID
    )
    disk.write(ext4.SUPERBLOCK_AT, superblock)
    disk.write(ext4.BLOCK, b"".join(descriptors))
    disk.flush()


def _groups(disk: Disk, inodes: int) -> tuple[int, int]:
    """As many groups as hold what was given out and the tables that come with each; how many inodes each has."""
    groups = 1
    while True:
        per_group = -(-inodes // groups // ext4.INODES_PER_BLOCK) * ext4.INODES_PER_BLOCK
        own = groups * (2 + per_group // ext4.INODES_PER_BLOCK)
        if per_group <= ext4.GROUP_INODES_MAX and disk.next + own <= groups * ext4.GROUP_BLOCKS:
            disk.require((groups - 1) * ext4.GROUP_BLOCKS + 1)
            return groups, per_group
        groups += 1


def _by_group(ranges: Sequence[Range], groups: int, size: int) -> list[list[Range]]:
    """What of the ranges falls into each group, counted from its own beginning."""
    return [
        [(min(max(begin - base, 0), size), min(max(end - base, 0), size)) for begin, end in ranges]
        for base in range(0, groups * size, size)
    ]
