"""pack: a directory of the workspace becomes a sequence of entries, as faithful as the format is."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import Any

from pyro_mcp.guest import params as read
from pyro_mcp.guest.errors import invalid
from pyro_mcp.guest.flow import Flow
from pyro_mcp.guest.tree.direct import LARGE, Reader
from pyro_mcp.guest.tree.layers import Upper, join
from pyro_mcp.guest.tree.mounts import require_none
from pyro_mcp.guest.tree.paths import ResolvedPath, Tree, absolute, failure, relative, reopen, show
from pyro_mcp.guest.tree.stage import listing
from pyro_mcp.guest.tree.transaction import retry_rollback
from pyro_mcp.protocol.channel import Stream
from pyro_mcp.protocol.entries import MAX_EXTENTS, MAX_XATTRS, STAGE_PREFIX, TOO_DEEP, Encoder, Entry, fits, xattr_bytes
from pyro_mcp.protocol.exchange import buffer

PIECE = 1024 * 1024
MAX_NOTES = 200
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class Notes:
    """Files that were left out or changed while they were read: all counted, the first few named."""

    def __init__(self) -> None:
        self.count = 0
        self.first: list[dict[str, str]] = []

    def add(self, path: bytes, reason: str) -> None:
        self.count += 1
        if len(self.first) < MAX_NOTES:
            self.first.append({"path": os.fsdecode(path[:1024]), "reason": reason})


class _PackLevel:
    """A directory on the way, with what is still to come of it. Closes what it was given, also when it fails."""

    def __init__(self, fd: int, path: bytes, upper: Upper | None) -> None:
        self.fd = fd
        self.path = path
        self.upper = upper
        try:
            self.names = iter(upper.names() if upper else listing(fd))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        os.close(self.fd)
        if self.upper is not None and self.upper.fd >= 0:
            os.close(self.upper.fd)


class Packer:
    """Walks a directory by descriptors, one per level, and encodes what it finds."""

    def __init__(self, send: Callable[[bytes | memoryview], object], check: Callable[[], None]) -> None:
        self.encoder = Encoder(send)
        self.skipped = Notes()
        self.changed = Notes()
        self._check = check
        self._links: dict[tuple[int, int], bytes] = {}
        self._space = memoryview(buffer(PIECE))

    def place(self, place: ResolvedPath) -> None:
        """A directory's content, or one file."""
        if place.is_directory():
            self.directory(place.fd)
        else:
            self.one(place.parent, place.name, place.name)

    def directory(self, fd: int, upper: Upper | None = None) -> None:
        """Everything below the directory `fd`, sorted, parents first; with `upper`, which this closes, only what may
        differ from the seed, and the overlay's marks."""
        levels = [_PackLevel(os.dup(fd), b"", upper)]
        try:
            while levels:
                level = levels[-1]
                name = next(level.names, None)
                if name is None:
                    levels.pop().close()
                    continue
                if not level.path and name.startswith(STAGE_PREFIX):
                    continue
                self._check()
                below = join(level.path, name)
                if level.upper is not None and level.upper.hides(name):
                    self._hide(below)
                    continue
                count = self.encoder.count
                deeper = self.one(level.fd, name, below)
                if deeper is not None:
                    self._descend(levels, level, name, deeper)
                elif level.upper is not None and level.upper.lower is not None and self.encoder.count == count:
                    # What does not travel still hides what the seed has by its name.
                    self._hide(below)
        finally:
            for level in levels:
                level.close()

    def root(self, fd: int) -> None:
        """The directory `fd` itself, unless it is as it was made."""
        entry = _entry(b".", "root", os.fstat(fd))._replace(xattrs=self._xattrs(f"/proc/self/fd/{fd}", b"."))
        if (entry.mode, entry.uid, entry.gid, entry.xattrs) != (0o755, 0, 0, ()):
            self.encoder.entry(entry)

    def _hide(self, path: bytes) -> None:
        if fits(path):
            self.encoder.entry(Entry(os.fsdecode(path), "whiteout"))

    def _descend(self, levels: list[_PackLevel], above: _PackLevel, name: bytes, fd: int) -> None:
        path = join(above.path, name)
        inside = above.upper.enter(name) if above.upper else None
        try:
            levels.append(_PackLevel(fd, path, inside))
        except PermissionError:
            self.skipped.add(path, "cannot be listed")
            return
        if inside is not None and inside.mark is not None:
            kind, target = inside.mark
            self.encoder.entry(Entry(os.fsdecode(path), kind, target=target))

    def one(self, parent: int, name: bytes, path: bytes) -> int | None:
        """Encode one thing; the open descriptor of a directory whose content is to follow."""
        if not fits(path):
            self.skipped.add(path, TOO_DEEP)
            return None
        try:
            fd = os.open(name, _LOOK, dir_fd=parent)
        except (FileNotFoundError, PermissionError) as error:
            if isinstance(error, PermissionError):
                self.skipped.add(path, "cannot be opened")
            return None
        keep = False
        try:
            keep = self._encode(fd, path)
        finally:
            if not keep:
                os.close(fd)
        return fd if keep else None

    def _encode(self, fd: int, path: bytes) -> bool:
        status = os.fstat(fd)
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFDIR:
            xattrs = self._xattrs(f"/proc/self/fd/{fd}", path)
            self.encoder.entry(_entry(path, "directory", status)._replace(xattrs=xattrs))
            return True
        if kind == stat.S_IFLNK:
            target = os.fsdecode(os.readlink(b"", dir_fd=fd))
            self.encoder.entry(_entry(path, "symlink", status)._replace(target=target, mode=0))
        elif kind == stat.S_IFREG:
            self._file(fd, path, status)
        else:
            kinds = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
            self.skipped.add(path, kinds.get(kind, "a device"))
        return False

    def _file(self, fd: int, path: bytes, status: os.stat_result) -> None:
        if status.st_nlink > 1:
            first = self._links.setdefault((status.st_dev, status.st_ino), path)
            if first != path:
                self.encoder.entry(Entry(os.fsdecode(path), "hardlink", target=os.fsdecode(first)))
                return
        try:
            own = reopen(fd, os.O_RDONLY)
        except PermissionError:
            self._links.pop((status.st_dev, status.st_ino), None)
            self.skipped.add(path, "cannot be read")
            return
        try:
            extents = _extents(own, status)
            xattrs = self._xattrs(own, path)
            self.encoder.entry(
                _entry(path, "file", status)._replace(size=status.st_size, extents=extents, xattrs=xattrs)
            )
            whole = True
            reader = Reader(own, self._space, large=status.st_size >= LARGE)
            for offset, length in ((0, status.st_size),) if extents is None else extents:
                whole = self._copy(reader, offset, length) and whole
            after = os.fstat(own)
            if not whole or (after.st_mtime_ns, after.st_size) != (status.st_mtime_ns, status.st_size):
                self.changed.add(path, "changed while it was read")
        finally:
            os.close(own)

    def _xattrs(self, file: int | str, path: bytes) -> tuple[tuple[str, bytes], ...]:
        """The attributes that travel; what else a user has set is noted."""
        kept, room, lost = [], MAX_XATTRS, False
        try:
            for name in sorted(os.listxattr(file)):
                if name.startswith("trusted.overlay."):
                    continue
                value = os.getxattr(file, name)
                if not name.startswith("user.") or name == "user." or xattr_bytes(name, value) > room:
                    lost = True
                    continue
                room -= xattr_bytes(name, value)
                kept.append((name, value))
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.ENODATA):
                raise
        if lost:
            self.skipped.add(path, "extended attributes of it do not travel")
        return tuple(kept)

    def _copy(self, reader: Reader, offset: int, length: int) -> bool:
        """Encode a range; what a shrinking file no longer has becomes zeros, and the answer False."""
        whole = True
        while length:
            self._check()
            piece: bytes | memoryview = reader.read(length, offset) if whole else b""
            if not piece:
                whole = False
                piece = bytes(min(PIECE, length))
            self.encoder.data(piece)
            offset += len(piece)
            length -= len(piece)
        return whole

    def result(self) -> dict[str, Any]:
        """Finish the sequence; the counts."""
        self.encoder.finish()
        return {
            "entry_count": self.encoder.count,
            "bytes_written": self.encoder.bytes,
            "skipped": self.skipped.first,
            "skipped_count": self.skipped.count,
            "changed": self.changed.first,
            "changed_count": self.changed.count,
        }


def _entry(path: bytes, kind: str, status: os.stat_result) -> Entry:
    mode = stat.S_IMODE(status.st_mode)
    return Entry(os.fsdecode(path), kind, mode, status.st_mtime_ns, uid=status.st_uid, gid=status.st_gid)


def _extents(fd: int, status: os.stat_result) -> tuple[tuple[int, int], ...] | None:
    """Where a sparse file has data; None for one that is better sent whole."""
    if status.st_blocks * 512 >= status.st_size or status.st_size < 2 * PIECE:
        return None
    extents: list[tuple[int, int]] = []
    at = 0
    try:
        while at < status.st_size and len(extents) < MAX_EXTENTS - 1:
            begin = os.lseek(fd, at, os.SEEK_DATA)
            at = min(os.lseek(fd, begin, os.SEEK_HOLE), status.st_size)
            if begin < at:
                extents.append((begin, at - begin))
    except OSError as error:
        return tuple(extents) if error.errno == errno.ENXIO else None  # ENXIO: only a hole is left.
    if at < status.st_size:
        extents.append((at, status.st_size - at))
    return tuple(extents)


def tree_pack(tree: Tree, stream: Stream) -> dict[str, Any]:
    """path, still? → EVENT {path, artifact_type, mode, mtime_ns}, then entries on DATA 1; counts, what was left out.

    The entries of a directory are relative to it and leave it out; a file is one entry of its own name. Links inside
    are packed as links. With `still` no other verb changes anything meanwhile.
    """
    parts = relative("export", stream.params.get("path", "."))
    still = read.flag(stream.params, "still")
    flow = Flow(stream)
    try:
        with tree.existing(parts) as place:
            require_none("export", tree, place.parts)
            status = place.stat()
            whole = place.is_directory()
            if not whole and not place.is_file():
                cannot = f"cannot export {show(place.path)}: it is neither a file nor a directory"
                raise invalid(cannot, "Export the directory that it is in: what cannot be exported is named.")
            head = {"path": os.fsdecode(place.path), "artifact_type": "directory" if whole else "file"}
            flow.event({**head, "mode": stat.S_IMODE(status.st_mode), "mtime_ns": status.st_mtime_ns})
            packer = Packer(flow.send, flow.check)
            if still:
                with tree.lock(flow.check):
                    retry_rollback(tree)
                    packer.place(place)
            else:
                packer.place(place)
            return packer.result()
    except OSError as error:
        raise failure("export", absolute(parts), error) from None
    finally:
        flow.close()
