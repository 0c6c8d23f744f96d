"""A seed image read by this host, without mounting it: the counterpart of `ext4_image`, and of nothing else.

Images of a guest's are for `ext4`; here is no journal to replay and no layout but ours. Damage is an error.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from pyro_mcp.errors import PyroError
from pyro_mcp.protocol.entries import MAX_DEPTH, Piece
from pyro_mcp.trees import ext4_format as ext4

_INODE = struct.Struct("<HHIIIIIHHIII60sIIII12sHHIII")
_PIECE = 256 * 1024
_NAME = struct.Struct("<IHBB")


@dataclass(frozen=True)
class SeedNode:
    """One file of the image, as stat(2) would report it. `number` is the same for all names of one file."""

    number: int
    mode: int
    size: int
    mtime_ns: int
    links: int
    body: bytes
    xattrs_at: int

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)


class SeedImage:
    """The image at `path`, open until `close`. Raises `PyroError` for one that is damaged, and `OSError`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._open()
        except BaseException:
            os.close(self._descriptor)
            raise

    def _open(self) -> None:
        head = self._pread(ext4.SUPERBLOCK_AT, 1024)
        inodes, blocks = struct.unpack_from("<II", head)
        (self._per_group,) = struct.unpack_from("<I", head, 40)
        if struct.unpack_from("<H", head, 56)[0] != ext4.MAGIC or not self._per_group:
            raise self._damaged("it has no superblock")
        self._blocks = blocks
        raw = self._pread(ext4.BLOCK, inodes // self._per_group * ext4.DESCRIPTOR_BYTES)
        self._tables = [fields[2] for fields in struct.iter_unpack("<IIIHHH14x", raw)]
        self._cached = -1
        self._cache = b""
        self.root = self.node(ext4.ROOT_INODE)

    def __enter__(self) -> SeedImage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        os.close(self._descriptor)

    def node(self, number: int) -> SeedNode:
        group, index = divmod(number - 1, self._per_group)
        if not 0 <= group < len(self._tables):
            raise self._damaged(f"it has no file {number}")
        block, place = divmod(index, ext4.INODES_PER_BLOCK)
        where = self._tables[group] + block
        if where != self._cached:
            self._cache, self._cached = self._block(where), where
        fields = _INODE.unpack_from(self._cache, place * ext4.INODE_BYTES)
        (mode, _, low, _, _, seconds, _, _, links, _, _, _, body, _, xattrs, high, *_, extra) = fields
        signed = seconds - (1 << 32) if seconds & 0x80000000 else seconds
        mtime_ns = (signed + ((extra & 3) << 32)) * 1_000_000_000 + (extra >> 2)
        return SeedNode(number, mode, high << 32 | low, mtime_ns, links, body, xattrs)

    def names(self, directory: SeedNode) -> Iterator[tuple[bytes, int]]:
        """(name, inode) of what the directory holds."""
        if not directory.is_directory:
            raise self._damaged(f"file {directory.number} is no directory")
        for offset, length, _ in self.extents(directory):
            data = self.read(directory, offset, length)
            for start in range(0, len(data), ext4.BLOCK):
                yield from self._block_names(data[start : start + ext4.BLOCK])

    def walk(self) -> Iterator[tuple[bytes, SeedNode]]:
        """Every name below the root as a path, with its file; parents first, each directory sorted."""
        pending = [(b"", self.root)]
        while pending:
            above, node = pending.pop()
            if above:
                yield above, node
            if node.is_directory:
                if above.count(b"/") >= MAX_DEPTH:
                    raise self._damaged("its directories have no end")
                names = sorted(self.names(node), reverse=True)
                pending += [(above + b"/" + name if above else name, self.node(number)) for name, number in names]

    def _block_names(self, block: bytes) -> Iterator[tuple[bytes, int]]:
        at = 0
        while at < len(block):
            if at + 8 > len(block):
                raise self._damaged("a directory has no end")
            number, size, length, _ = _NAME.unpack_from(block, at)
            if size < 8 + length or at + size > len(block):
                raise self._damaged("a directory has no end")
            name = block[at + 8 : at + 8 + length]
            if number and name not in (b".", b".."):
                yield name, number
            at += size

    def extents(self, node: SeedNode) -> list[tuple[int, int, int]]:
        """(offset in the file, length, offset in the image) of what is no hole, in order."""
        found = []
        for logical, physical, count in self._runs(node.body, 0):
            offset = logical * ext4.BLOCK
            found.append((offset, min(count * ext4.BLOCK, node.size - offset), physical * ext4.BLOCK))
        return found

    def _runs(self, block: bytes, level: int) -> Iterator[ext4.Run]:
        _, entries, _, depth, _ = struct.unpack_from("<HHHHI", block)
        if level > 5 or 12 * (entries + 1) > len(block):
            raise self._damaged("a file has no end")
        for place in range(12, 12 * (entries + 1), 12):
            if depth:
                _, low, high, _ = struct.unpack_from("<IIHH", block, place)
                yield from self._runs(self._block(high << 32 | low), level + 1)
            else:
                logical, count, high, low = struct.unpack_from("<IHHI", block, place)
                yield logical, high << 32 | low, count

    def read(self, node: SeedNode, offset: int, length: int) -> bytes:
        """Bytes of a file or directory, fewer at its end."""
        end = min(offset + length, node.size)
        pieces: list[bytes] = []
        at = offset
        for begin, size, where in self.extents(node):
            if begin >= end or at >= end:
                break
            if begin + size <= at:
                continue
            if begin > at:
                pieces.append(bytes(begin - at))
                at = begin
            count = min(begin + size, end) - at
            pieces.append(self._pread(where + at - begin, count))
            at += count
        return b"".join(pieces) + bytes(max(end - at, 0))

    def pieces(self, node: SeedNode) -> Iterator[Piece]:
        """What of a file is no hole, in order."""
        for begin, length, where in self.extents(node):
            for done in range(0, length, _PIECE):
                yield Piece(begin + done, self._pread(where + done, min(_PIECE, length - done)))

    def target(self, node: SeedNode) -> bytes:
        """Where a symbolic link points."""
        return node.body[: node.size] if node.size < ext4.FAST_LINK_BYTES else self.read(node, 0, node.size)

    def xattrs(self, node: SeedNode) -> tuple[tuple[str, bytes], ...]:
        """The extended attributes, sorted by name."""
        if not node.xattrs_at:
            return ()
        block = self._block(node.xattrs_at)
        found, at = [], 32
        while block[at : at + 4] != b"\0\0\0\0":
            length, _, where, _, size, _ = struct.unpack_from("<BBHIII", block, at)
            name = "user." + block[at + 16 : at + 16 + length].decode("utf-8", "surrogateescape")
            found.append((name, block[where : where + size]))
            at += 16 + (length + 3 & ~3)
            if at > ext4.BLOCK - 20:
                break
        return tuple(sorted(found))

    def _block(self, number: int) -> bytes:
        if number >= self._blocks:
            raise self._damaged(f"it has no block {number}")
        return self._pread(number * ext4.BLOCK, ext4.BLOCK)

    def _pread(self, offset: int, length: int) -> bytes:
        data = os.pread(self._descriptor, length, offset)
        if len(data) < length:
            raise self._damaged("it is cut off")
        return data

    def _damaged(self, cause: str) -> PyroError:
        return PyroError(
            f"cannot read the seed {self._path.name}: it is damaged: {cause}", hint="Create the workspace anew"
        )
