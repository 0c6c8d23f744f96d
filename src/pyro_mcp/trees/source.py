"""A directory of the host as a sequence of entries.

Every step is an `openat` below a directory that is open already and none follows a link, so whoever swaps links and
directories meanwhile cannot lead the walk out. What cannot travel (sockets, pipes, devices, what may not be read) is
left out and listed; so is a file that changed while it was read, though its bytes do travel.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pyro_mcp.errors import Capacity, InvalidArgument, NotFound
from pyro_mcp.model.sync import Skipped
from pyro_mcp.protocol.entries import MAX_DEPTH, MAX_EXTENTS, Entry, EntryError, Piece, check
from pyro_mcp.system.atomic import disk_errors
from pyro_mcp.system.sparse import extents
from pyro_mcp.trees.attributes import LINKED, PRIVILEGED, ROOT, TIME, kept_time, kept_xattrs
from pyro_mcp.trees.limits import Limits, Meter, require_wanted

CHUNK = 1024 * 1024
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_KINDS = {
    stat.S_IFSOCK: "a socket",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
CHANGED = "it changed while it was read"


@dataclass
class _OpenDirectory:
    """A directory that is open, and the names in it that are still to come, the next one last."""

    descriptor: int
    path: str
    identity: tuple[int, int]
    names: list[str] = field(default_factory=list)


class Selection:
    """What of a directory travels: the paths that are listed and the directories above them, as far as they are there,
    and `written`, files with a content of their own in place of what may be there."""

    def __init__(self, listed: Iterable[str], written: Mapping[str, bytes]) -> None:
        self.written = written
        self._names: dict[str, set[str]] = {}
        for path in (*listed, *written):
            self._add(path)

    def _add(self, path: str) -> None:
        while path:
            above, _, name = path.rpartition("/")
            names = self._names.setdefault(above, set())
            if name in names:
                return
            names.add(name)
            path = above

    def takes(self, path: str) -> bool:
        """Whether what is there under `path` is read."""
        above, _, name = path.rpartition("/")
        return name in self._names.get(above, ()) and path not in self.written

    def of(self, directory: str, there: Iterable[str]) -> set[str]:
        """The names in `directory` that travel, of those that are `there` and those that are written."""
        wanted = self._names.get(directory, set())
        above = f"{directory}/" if directory else ""
        return {name for name in wanted if f"{above}{name}" in self.written} | wanted.intersection(there)


class DirectorySource:
    """The tree below `root`, or a `selection` of it, in a stable order, parents first. Iterate once; then `skipped` is
    complete.

    The tree arrives owned by root, without setuid bits, and its files without setgid bits. Raises `InvalidArgument`
    (not a directory, limits), `NotFound`, `PermissionDenied` for the root itself, and `Cancelled`.
    """

    mode = "directory"

    def __init__(
        self,
        root: Path,
        *,
        selection: Selection | None = None,
        limits: Limits | None = None,
        cancelled: threading.Event | None = None,
    ) -> None:
        self.skipped: list[Skipped] = []
        self._root = root
        self._selection = selection
        self._limits = limits or Limits()
        self._meter = Meter(self._limits, f"import {root}")
        self._cancelled = cancelled
        self._links: dict[tuple[int, int], str] = {}

    def __iter__(self) -> Iterator[Entry | Piece]:
        with disk_errors(f"read {self._root}"):
            try:
                descriptor = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                hint = "It was removed meanwhile; try again"
                raise NotFound(f"cannot read {self._root}: no such directory", hint=hint) from None
            except NotADirectoryError:
                hint = "It was replaced meanwhile; try again"
                raise InvalidArgument(f"cannot read {self._root}: it is not a directory", hint=hint) from None
            about = os.fstat(descriptor)
        root = _OpenDirectory(descriptor, "", (about.st_dev, about.st_ino))
        try:
            if about.st_mode & stat.S_ISGID or any(kept_xattrs(_xattrs(descriptor))):
                self._skip(".", ROOT)
            self._tally(root, Meter(self._limits, f"import {self._root}"), frozenset(), set())
        except BaseException:
            os.close(descriptor)
            raise
        yield from self._walk(root)

    def _tally(
        self, level: _OpenDirectory, meter: Meter, above: frozenset[tuple[int, int]], links: set[tuple[int, int]]
    ) -> None:
        """Count what is below `level` before anything is read, so that too much is refused at once. What goes wrong
        here goes wrong again, and is reported then."""
        self._require_wanted()
        above |= {level.identity}
        below = []
        with contextlib.suppress(PermissionError), os.scandir(level.descriptor) as found:
            for one in found:
                with contextlib.suppress(OSError):
                    about = one.stat(follow_symlinks=False)
                    kind, identity = stat.S_IFMT(about.st_mode), (about.st_dev, about.st_ino)
                    if kind in _KINDS:
                        continue
                    path = f"{level.path}/{one.name}" if level.path else one.name
                    if self._selection is not None and not self._selection.takes(path):
                        continue
                    meter.add(path, about.st_size if kind == stat.S_IFREG and identity not in links else 0)
                    if kind == stat.S_IFDIR and identity not in above and len(above) < MAX_DEPTH:
                        below.append((one.name, path, identity))
                    elif about.st_nlink > 1:
                        links.add(identity)
        for name, path, identity in below:
            with contextlib.suppress(OSError):
                descriptor = os.open(name, _DIRECTORY, dir_fd=level.descriptor)
                try:
                    self._tally(_OpenDirectory(descriptor, path, identity), meter, above, links)
                finally:
                    os.close(descriptor)

    def _require_wanted(self) -> None:
        require_wanted(f"reading {self._root}", self._cancelled)

    def _walk(self, root: _OpenDirectory) -> Iterator[Entry | Piece]:
        levels = [root]
        try:
            self._list(root)
            while levels:
                level = levels[-1]
                if not level.names:
                    os.close(levels.pop().descriptor)
                    continue
                self._require_wanted()
                name = level.names.pop()
                path = f"{level.path}/{name}" if level.path else name
                try:
                    yield from self._member(levels, name, path)
                except OSError as error:
                    self._excuse(path, error)
                except EntryError as error:
                    self._skip(path, str(error))
        finally:
            for level in levels:
                os.close(level.descriptor)

    def _list(self, level: _OpenDirectory) -> None:
        try:
            found: Iterable[str] = os.listdir(level.descriptor)
            if self._selection is not None:
                found = self._selection.of(level.path, found)
            level.names = sorted(found, reverse=True)
        except OSError as error:
            self._excuse(level.path or ".", error)

    def _member(self, levels: list[_OpenDirectory], name: str, path: str) -> Iterator[Entry | Piece]:
        if self._selection is not None and (data := self._selection.written.get(path)) is not None:
            yield self._counted(Entry(path, "file", 0o644, time.time_ns(), size=len(data)))
            if data:
                yield Piece(0, data)
            return
        parent = levels[-1].descriptor
        about = os.stat(name, dir_fd=parent, follow_symlinks=False)
        kind = stat.S_IFMT(about.st_mode)
        if kind in _KINDS:
            self._skip(path, _KINDS[kind])
        elif kind == stat.S_IFLNK:
            target = os.readlink(name, dir_fd=parent)
            if about.st_nlink > 1 and self._links.setdefault((about.st_dev, about.st_ino), path) != path:
                self._skip(path, LINKED)
            for reason in kept_xattrs(_xattrs(f"/proc/self/fd/{parent}/{name}"), link=True)[1]:
                self._skip(path, reason)
            yield self._counted(Entry(path, "symlink", 0o777, self._time(path, about), target=target))
        elif kind == stat.S_IFDIR:
            yield from self._directory(levels, os.open(name, _DIRECTORY, dir_fd=parent), path)
        else:
            descriptor = os.open(name, _FILE, dir_fd=parent)
            try:
                yield from self._file(descriptor, path, about)
            finally:
                os.close(descriptor)

    def _directory(self, levels: list[_OpenDirectory], descriptor: int, path: str) -> Iterator[Entry]:
        try:
            about = os.fstat(descriptor)
            identity = (about.st_dev, about.st_ino)
            if any(level.identity == identity for level in levels):  # a bind mount of a parent
                self._skip(path, "it contains itself")
                return
            entry = self._counted(self._dressed(Entry(path, "directory"), descriptor, about))
            levels.append(_OpenDirectory(descriptor, path, identity))
            descriptor = -1
        finally:
            if descriptor >= 0:
                os.close(descriptor)
        yield entry
        self._list(levels[-1])

    def _file(self, descriptor: int, path: str, seen: os.stat_result) -> Iterator[Entry | Piece]:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode) or (about.st_dev, about.st_ino) != (seen.st_dev, seen.st_ino):
            self._skip(path, CHANGED)
            return
        identity = (about.st_dev, about.st_ino)
        if about.st_nlink > 1 and identity in self._links:
            yield self._counted(Entry(path, "hardlink", target=self._links[identity]))
            return
        steady = True
        for item in _contents(descriptor, self._dressed(Entry(path, "file"), descriptor, about), about):
            if isinstance(item, Entry):
                yield self._counted(item)
                self._links[identity] = path
            elif item is None:
                steady = False
            else:
                yield item
        after = os.fstat(descriptor)
        if not steady or (after.st_size, after.st_mtime_ns) != (about.st_size, about.st_mtime_ns):
            self._skip(path, CHANGED)

    def _dressed(self, entry: Entry, descriptor: int, about: os.stat_result) -> Entry:
        """The entry with the attributes of the open file."""
        lost = 0o6000 if entry.type == "file" else 0o4000
        if about.st_mode & lost:
            self._skip(entry.path, PRIVILEGED)
        xattrs, reasons = kept_xattrs(_xattrs(descriptor))
        for reason in reasons:
            self._skip(entry.path, reason)
        mode = about.st_mode & 0o7777 & ~lost
        return Entry(entry.path, entry.type, mode, self._time(entry.path, about), xattrs=xattrs)

    def _time(self, path: str, about: os.stat_result) -> int:
        kept = kept_time(about.st_mtime_ns)
        if kept != about.st_mtime_ns:
            self._skip(path, TIME)
        return kept

    def _counted(self, entry: Entry) -> Entry:
        check(entry)
        self._meter.add(entry.path, entry.size)
        return entry

    def _excuse(self, path: str, error: OSError) -> None:
        """List what this one member will not give; let what would fail for all of them through."""
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise Capacity(f"cannot read {self._root}: {error.strerror} at {path!a}") from error
        self._skip(path, _why(error))

    def _skip(self, path: str, reason: str) -> None:
        self.skipped.append(Skipped(path=path, reason=reason))


def _contents(descriptor: int, entry: Entry, about: os.stat_result) -> Iterator[Entry | Piece | None]:
    """The entry with its size and its bytes; None when the file turned out shorter than announced."""
    size = about.st_size
    if about.st_blocks * 512 < size:
        found = [(begin, min(length, size - begin)) for begin, length in extents(descriptor) if begin < size]
        if len(found) <= MAX_EXTENTS:
            yield _sized(entry, size, tuple(found))
            for begin, length in found:
                yield from _bytes(descriptor, begin, length)
            return
    if size <= CHUNK:
        # Read first, announce then: what travels is one state of the file, whatever became of it.
        data = os.pread(descriptor, CHUNK, 0) if size else b""
        yield _sized(entry, len(data), None)
        if data:
            yield Piece(0, data)
        return
    yield _sized(entry, size, None)
    yield from _bytes(descriptor, 0, size)


def _sized(entry: Entry, size: int, found: tuple[tuple[int, int], ...] | None) -> Entry:
    return entry._replace(size=size, extents=found)


def _xattrs(file: int | str) -> list[tuple[str, bytes]]:
    """Of an open file, or of what is at a path, a link not followed."""
    follow = isinstance(file, int)
    try:
        names = os.listxattr(file, follow_symlinks=follow)
        return [(name, os.getxattr(file, name, follow_symlinks=follow)) for name in names]
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.ENODATA):  # a file system without any, or one that went meanwhile
            return []
        raise


def _bytes(descriptor: int, begin: int, length: int) -> Iterator[Piece | None]:
    end = begin + length
    while begin < end:
        data = os.pread(descriptor, min(CHUNK, end - begin), begin)
        if not data:
            yield None
            data = bytes(min(CHUNK, end - begin))
        yield Piece(begin, data)
        begin += len(data)


def _why(error: OSError) -> str:
    if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.ESTALE, errno.EINVAL):
        return CHANGED
    with contextlib.suppress(TypeError, ValueError):
        return os.strerror(error.errno or errno.EIO)
    return "it cannot be read"
