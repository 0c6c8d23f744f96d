"""Entries become an ext4 image in one pass: content streams to the front, metadata follows at the end.

Nothing is copied twice, no tool is needed, and what ext4 keeps is kept: any name of 255 bytes, holes, hard links, times
to the nanosecond from 1901 to 2446, extended attributes, setgid directories. Equal sequences give equal images.
"""

from __future__ import annotations

import os
import stat
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator

from pyro_mcp.errors import InvalidArgument
from pyro_mcp.protocol.entries import Entry, Piece, check
from pyro_mcp.trees import ext4_format as ext4
from pyro_mcp.trees.ext4_directory import DIRECTORY, FILE, SYMLINK, Name, directory_blocks
from pyro_mcp.trees.ext4_disk import Disk, close
from pyro_mcp.trees.limits import Limits, Meter

_KINDS = {"file": FILE, "directory": DIRECTORY, "symlink": SYMLINK}


class _Directory:
    __slots__ = ("entry", "names", "number", "parent", "subdirectories")

    def __init__(self, number: int, parent: int, entry: Entry) -> None:
        self.number = number
        self.parent = parent
        self.entry = entry
        self.names: dict[bytes, tuple[int, int]] = {}
        self.subdirectories = 0


class ImageWriter:
    """Writes to the empty file `descriptor`, which may become `device_bytes` large. `what` completes "cannot …".

    Raises `InvalidArgument` for what a sequence may not do, `Unsupported` when it does not fit, `Cancelled`, `OSError`.
    """

    def __init__(
        self,
        descriptor: int,
        *,
        what: str,
        device_bytes: int,
        limits: Limits | None = None,
        cancelled: threading.Event | None = None,
        emit: Callable[[int, int], None] | None = None,
    ) -> None:
        self.meter = Meter(limits or Limits(), what, cancelled=cancelled, emit=emit)
        self.checksum = 0
        """Of all paths, as `path_checksum` adds them up."""
        self._what = what
        self._disk = Disk(descriptor, device_bytes)
        self._inodes = [bytes(ext4.INODE_BYTES)] * (ext4.FIRST_INODE - 1)
        """Packed, by number less one; a directory's is empty until its names are known."""
        self._links: dict[int, int] = {}
        self._directories = {"": _Directory(ext4.ROOT_INODE, ext4.ROOT_INODE, Entry("", "directory", 0o755))}
        self._files: dict[str, int] = {}
        self._xattrs: dict[bytes, int] = {}
        """Where a block of extended attributes stands that can still be shared."""
        self._shared: dict[int, tuple[bytes, int]] = {}
        """Each of those blocks, and how many use it."""
        self._open: tuple[Entry, list[ext4.Run]] | None = None

    def write(self, items: Iterable[Entry | Piece]) -> None:
        """Write the whole sequence. `finish` comes last."""
        for item in items:
            if isinstance(item, Entry):
                self._begin(item)
            else:
                self._piece(item)

    # -- members

    def _begin(self, entry: Entry) -> None:
        check(entry)
        self.meter.add(entry.path, entry.size)
        above, _, name = entry.path.rpartition("/")
        parent = self._directories.get(above)
        if parent is None:
            raise self._refused(f"{entry.path!a} is below a link, or below nothing")
        raw = os.fsencode(name)
        if raw in parent.names:
            raise self._refused(f"{entry.path!a} occurs twice")
        self._open = None
        parent.names[raw] = self._make(entry, parent)
        self.checksum += path_checksum(os.fsencode(entry.path))

    def _make(self, entry: Entry, parent: _Directory) -> tuple[int, int]:
        """The new name's inode and kind."""
        if entry.type == "hardlink":
            return self._link(entry), FILE
        if entry.type not in _KINDS:
            raise self._refused(f"{entry.path!a} is a {entry.type}, which has no meaning here")
        number = len(self._inodes) + 1
        if entry.type == "directory":
            self._directories[entry.path] = _Directory(number, parent.number, entry)
            parent.subdirectories += 1
            self._inodes.append(b"")
        elif entry.type == "symlink":
            self._inodes.append(self._symlink(entry))
        else:
            self._inodes.append(self._file(entry))
            self._files[entry.path] = number
        return number, _KINDS[entry.type]

    def _link(self, entry: Entry) -> int:
        number = self._files.get(entry.target)
        if number is None:
            raise self._refused(f"{entry.path!a} is a hard link to {entry.target!a}, which is no file before it")
        links = self._links.get(number, 1) + 1
        if links > ext4.LINKS_MAX:
            raise self._refused(f"{entry.path!a} is one of more than {ext4.LINKS_MAX:,} names of one file")
        self._links[number] = links
        self._files[entry.path] = number
        return number

    def _symlink(self, entry: Entry) -> bytes:
        target = os.fsencode(entry.target)
        if len(target) > ext4.LINK_BYTES_MAX:
            raise self._refused(f"the target of the link {entry.path!a} is longer than {ext4.LINK_BYTES_MAX:,} bytes")
        mode, size = stat.S_IFLNK | 0o777, len(target)
        if size < ext4.FAST_LINK_BYTES:
            return ext4.pack_inode(mode, size=size, mtime_ns=entry.mtime_ns, blocks=target)
        return self._inode(mode, entry, size, [(0, self._disk.put(target), 1)], xattrs=0)

    def _file(self, entry: Entry) -> bytes:
        needed = _block_runs(entry)
        if needed and needed[-1][0] + needed[-1][1] > ext4.FILE_BLOCKS_MAX:
            raise self._refused(f"{entry.path!a} is larger than a file can be")
        runs = [(logical, self._disk.take(count), count) for logical, count in needed]
        self._open = (entry, runs)
        xattrs = self._attributes(entry)
        return self._inode(stat.S_IFREG | entry.mode, entry, entry.size, runs, xattrs=xattrs)

    def _inode(
        self, mode: int, entry: Entry, size: int, runs: list[ext4.Run], *, xattrs: int, links: int = 1, flags: int = 0
    ) -> bytes:
        root, own = ext4.extent_root(runs, self._disk.put)
        blocks = sum(count for _, _, count in runs) + own + (1 if xattrs else 0)
        return ext4.pack_inode(
            mode,
            size=size,
            mtime_ns=entry.mtime_ns,
            links=links,
            sectors=blocks * 8,
            flags=ext4.EXTENTS_FLAG | flags,
            blocks=root,
            xattrs=xattrs,
        )

    def _attributes(self, entry: Entry) -> int:
        """The block of the entry's extended attributes, shared by those that have the same; 0 for none."""
        if not entry.xattrs:
            return 0
        packed = ext4.pack_xattrs(entry.xattrs)
        where = self._xattrs.get(packed)
        if where is None or self._shared[where][1] == ext4.XATTR_SHARED_MAX:
            where = self._xattrs[packed] = self._disk.take(1)
            self._shared[where] = (packed, 0)
        self._shared[where] = (packed, self._shared[where][1] + 1)
        return where

    def _piece(self, piece: Piece) -> None:
        """Bytes of the file begun last; they may end amid a block, and between two stretches of data are zeros."""
        end = piece.offset + len(piece.data)
        if self._open is None or end > self._open[0].size:
            raise self._refused("bytes that belong to no file")
        at, view = piece.offset, memoryview(piece.data)
        for logical, physical, count in self._open[1]:
            begin = logical * ext4.BLOCK
            if begin <= at < begin + count * ext4.BLOCK:
                size = min(len(view), begin + count * ext4.BLOCK - at)
                self._disk.write(physical * ext4.BLOCK + at - begin, view[:size])
                at, view = at + size, view[size:]
            if not view:
                return
        raise self._refused(f"bytes where {self._open[0].path!a} has none")

    # -- the end

    def finish(self) -> None:
        """Write all that was pending. Nothing is flushed to the disk yet."""
        for directory in self._directories.values():
            self._inodes[directory.number - 1] = self._directory(directory)
        for number, links in self._links.items():
            packed = self._inodes[number - 1]
            at = ext4.LINKS_AT
            self._inodes[number - 1] = packed[:at] + links.to_bytes(2, "little") + packed[at + 2 :]
        for where, (packed, users) in self._shared.items():
            self._disk.write(where * ext4.BLOCK, ext4.share_xattrs(packed, users))
        close(self._disk, self._inodes, [one.number for one in self._directories.values()])

    def _directory(self, directory: _Directory) -> bytes:
        names: list[Name] = [(name, *about) for name, about in directory.names.items()]
        blocks, indexed = directory_blocks(directory.number, directory.parent, names)
        first = self._disk.take(len(blocks))
        self._disk.write(first * ext4.BLOCK, b"".join(blocks))
        links = 2 + directory.subdirectories
        return self._inode(
            stat.S_IFDIR | directory.entry.mode,
            directory.entry,
            len(blocks) * ext4.BLOCK,
            [(0, first, len(blocks))],
            xattrs=self._attributes(directory.entry),
            links=links if links <= ext4.LINKS_MAX else 1,
            flags=ext4.INDEX_FLAG if indexed else 0,
        )

    def _refused(self, cause: str) -> InvalidArgument:
        return InvalidArgument(f"cannot {self._what}: {cause}")


def path_checksum(path: bytes) -> int:
    """What one path adds to a sum by which two sets of paths are told apart, whatever their order."""
    return zlib.crc32(path) << 32 | zlib.adler32(path)


def _block_runs(entry: Entry) -> list[tuple[int, int]]:
    """(first block, how many) of each stretch of the file that has data; stretches that share a block are one."""
    extents: Iterator[tuple[int, int]] = iter(((0, entry.size),) if entry.extents is None else entry.extents)
    runs: list[tuple[int, int]] = []
    for offset, length in extents:
        first, end = offset // ext4.BLOCK, -(-(offset + length) // ext4.BLOCK)
        if runs and first <= runs[-1][0] + runs[-1][1]:
            runs[-1] = (runs[-1][0], end - runs[-1][0])
        elif first < end:
            runs.append((first, end - first))
    return runs
