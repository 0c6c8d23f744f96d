"""ext4 on disk, as far as the images that we write use it: 4 KiB blocks, no journal, no checksums, no copies of the
superblock, all metadata wherever it falls (flex_bg). Numbers are those of the kernel's fs/ext4."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

BLOCK = 4096
GROUP_BLOCKS = BLOCK * 8
GROUP_INODES_MAX = BLOCK * 8
INODE_BYTES = 256
INODES_PER_BLOCK = BLOCK // INODE_BYTES
DESCRIPTOR_BYTES = 32
ROOT_INODE, FIRST_INODE = 2, 11
LINKS_MAX = 65_000
FAST_LINK_BYTES = 60
"""A link's target of fewer bytes stands in its inode."""
LINK_BYTES_MAX = BLOCK - 1
FILE_BLOCKS_MAX = (1 << 32) - 1
TIME_MIN, TIME_MAX = -(1 << 31), (1 << 34) - (1 << 31) - 1
"""Seconds that an inode can name: December 1901 to May 2446."""

SUPERBLOCK_AT, MAGIC = 1024, 0xEF53
EXTENTS_FLAG, INDEX_FLAG = 0x80000, 0x1000
_EXTENT_MAGIC = 0xF30A
_LEAF_MAX, _ROOT_MAX = (BLOCK - 12) // 12, 4
_RUN_MAX = 32768
_COMPATIBLE = 0x8 | 0x20 | 0x200  # ext_attr, dir_index, sparse_super2
_INCOMPATIBLE = 0x2 | 0x40 | 0x200  # filetype, extents, flex_bg
_READ_ONLY_COMPATIBLE = 0x2 | 0x8 | 0x20 | 0x40  # large_file, huge_file, dir_nlink, extra_isize
_UNSIGNED_HASH = 0x2
_EXTRA_BYTES = 32
_INODE = struct.Struct("<HHIIIIIHHIII60sIIII12sHHIIIIIII")
_XATTR_MAGIC, _XATTR_USER = 0xEA020000, 1
XATTR_SHARED_MAX = 1024
"""So many inodes may use one block of extended attributes."""

Run = tuple[int, int, int]
"""(first block in the file, first block on the disk, how many)."""


def pack_inode(
    mode: int,
    *,
    size: int,
    mtime_ns: int,
    links: int = 1,
    sectors: int = 0,
    flags: int = 0,
    blocks: bytes = b"",
    xattrs: int = 0,
) -> bytes:
    """An inode of root's, all of whose times are `mtime_ns`. `xattrs` is the block of its extended attributes."""
    seconds, nanoseconds = divmod(mtime_ns, 1_000_000_000)
    low = seconds & 0xFFFFFFFF
    signed = low - (1 << 32) if low & 0x80000000 else low
    extra = ((seconds - signed) >> 32) & 3 | nanoseconds << 2
    high = struct.pack("<HHHHHH", sectors >> 32, xattrs >> 32, 0, 0, 0, 0)
    packed = _INODE.pack(
        *(mode, 0, size & 0xFFFFFFFF, low, low, low, 0, 0, links, sectors & 0xFFFFFFFF, flags, 0, blocks),
        *(0, xattrs & 0xFFFFFFFF, size >> 32, 0, high, _EXTRA_BYTES, 0, extra, extra, extra, 0, 0, 0, 0),
    )
    return packed.ljust(INODE_BYTES, b"\0")


LINKS_AT = 26
"""Where an inode's count of names stands, 16 bits."""


def extent_root(runs: Sequence[Run], put: Callable[[bytes], int]) -> tuple[bytes, int]:
    """What an inode holds to find its blocks, and how many blocks of the tree's own `put` wrote for that."""
    firsts, items = [], []
    for logical, physical, count in runs:
        for done in range(0, count, _RUN_MAX):
            length, where = min(_RUN_MAX, count - done), physical + done
            firsts.append(logical + done)
            items.append(struct.pack("<IHHI", logical + done, length, where >> 32, where & 0xFFFFFFFF))
    depth = own = 0
    while len(items) > _ROOT_MAX:
        above, above_firsts = [], []
        for start in range(0, len(items), _LEAF_MAX):
            part = items[start : start + _LEAF_MAX]
            where = put(_extent_header(len(part), _LEAF_MAX, depth) + b"".join(part))
            above.append(struct.pack("<IIHH", firsts[start], where & 0xFFFFFFFF, where >> 32, 0))
            above_firsts.append(firsts[start])
            own += 1
        firsts, items, depth = above_firsts, above, depth + 1
    return _extent_header(len(items), _ROOT_MAX, depth) + b"".join(items), own


def _extent_header(entries: int, max_: int, depth: int) -> bytes:
    return struct.pack("<HHHHI", _EXTENT_MAGIC, entries, max_, depth, 0)


def pack_xattrs(xattrs: Sequence[tuple[str, bytes]]) -> bytes:
    """A block of `user.` attributes, used once until `share_xattrs` says otherwise. Raises `OverflowError` when they do
    not fit."""
    names = [(name.removeprefix("user.").encode("utf-8", "surrogateescape"), value) for name, value in xattrs]
    entries, values = bytearray(), bytearray()
    total = 0
    for name, value in sorted(names, key=lambda pair: (len(pair[0]), pair[0])):
        padded = value.ljust(-(-len(value) // 4) * 4, b"\0")
        values[:0] = padded
        hashed = _xattr_hash(name, padded)
        total = (_rotated(total, 16) ^ hashed) if hashed else 0
        where = BLOCK - len(values) if value else 0
        head = struct.pack("<BBHIII", len(name), _XATTR_USER, where, 0, len(value), hashed)
        entries += head + name.ljust(-(-len(name) // 4) * 4, b"\0")
    header = struct.pack("<IIIII12x", _XATTR_MAGIC, 1, 1, total, 0)
    room = BLOCK - len(header) - len(entries) - len(values)
    if room < 4:
        raise OverflowError("the extended attributes do not fit into a block")
    return header + bytes(entries) + bytes(room) + bytes(values)


def share_xattrs(block: bytes, users: int) -> bytes:
    """The same block for so many inodes."""
    return block[:4] + struct.pack("<I", users) + block[8:]


def _xattr_hash(name: bytes, padded: bytes) -> int:
    value = 0
    for byte in name:
        value = _rotated(value, 5) ^ byte
    for (word,) in struct.iter_unpack("<I", padded):
        value = _rotated(value, 16) ^ word
    return value


def _rotated(value: int, by: int) -> int:
    return (value << by | value >> 32 - by) & 0xFFFFFFFF


def pack_superblock(
    *, blocks: int, free_blocks: int, per_group: int, free_inodes: int, groups: int, uuid: bytes
) -> bytes:
    """A clean file system that nothing was ever mounted on; its 1024 bytes. `per_group` is of inodes."""
    block = bytearray(1024)
    struct.pack_into("<IIIIIIII", block, 0, per_group * groups, blocks, 0, free_blocks, free_inodes, 0, 2, 2)
    struct.pack_into("<III", block, 32, GROUP_BLOCKS, GROUP_BLOCKS, per_group)
    struct.pack_into("<HhHHH", block, 52, 0, -1, MAGIC, 1, 1)
    struct.pack_into("<I", block, 76, 1)
    struct.pack_into("<IHH", block, 84, FIRST_INODE, INODE_BYTES, 0)
    struct.pack_into("<III16s", block, 92, _COMPATIBLE, _INCOMPATIBLE, _READ_ONLY_COMPATIBLE, uuid)
    struct.pack_into("<HHI", block, 348, _EXTRA_BYTES, _EXTRA_BYTES, _UNSIGNED_HASH)
    return bytes(block)


def pack_descriptor(
    *, bitmap: int, inode_bitmap: int, table: int, free_blocks: int, free_inodes: int, dirs: int
) -> bytes:
    """A block group's descriptor."""
    return struct.pack("<IIIHHH14x", bitmap, inode_bitmap, table, free_blocks, free_inodes, dirs)


def pack_bitmap(taken: Sequence[tuple[int, int]], size: int) -> bytes:
    """A block of bits with the ranges `taken` set, and all from `size` on, which stand for nothing."""
    bits = 0
    for begin, end in (*taken, (size, BLOCK * 8)):
        if begin < end:
            bits |= (1 << end) - (1 << begin)
    return bits.to_bytes(BLOCK, "little")
