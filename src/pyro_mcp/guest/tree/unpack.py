"""unpack: a sequence of entries becomes files, below one descriptor and nowhere else.

Each entry's parent must be a directory that came before it in the same sequence, reached without following links, and
no name may come twice: so whatever a hostile sequence says, it can only make what is new.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import IO, Any

from pyro_mcp.guest import params as read
from pyro_mcp.guest.errors import AgentError, invalid
from pyro_mcp.guest.flow import Flow
from pyro_mcp.guest.tree.direct import LARGE, LargeFile
from pyro_mcp.guest.tree.layers import IMPURE, OPAQUE, REDIRECT
from pyro_mcp.guest.tree.paths import ResolvedPath, Tree, absolute, failure, relative, show
from pyro_mcp.guest.tree.reading import same_content
from pyro_mcp.guest.tree.stage import Stage, listing, write_all
from pyro_mcp.guest.tree.transaction import Step, commit, retry_rollback
from pyro_mcp.protocol.channel import Stream
from pyro_mcp.protocol.entries import STAGE_PREFIX, Entry, EntryDecoder, EntryError, Piece

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Unpacker:
    """Makes entries below `root`, an open descriptor. `overlay` allows an overlay's marks, and keeps owners."""

    def __init__(self, root: int, *, overlay: bool = False) -> None:
        self._root = root
        self._overlay = overlay
        self._decoder = EntryDecoder()
        self._parent: tuple[bytes, int] | None = None
        self._file = -1
        self._large: LargeFile | None = None
        self._entry: Entry | None = None
        self._directories: list[Entry] = []
        self._top: Entry | None = None

    def run(self, pieces: Iterable[bytes | memoryview]) -> dict[str, int]:
        """Unpack the whole sequence; the counts. Raises `AgentError` for a bad one and `OSError`."""
        try:
            for data in pieces:
                for item in self._decoder.feed(data):
                    if isinstance(item, Piece):
                        self._write(item)
                    else:
                        self._finish_file()
                        self._begin(item)
            self._decoder.close()
            self._finish_file()
            for entry in reversed(self._directories):
                self._dress(entry)
            if self._top is not None:
                self._set(self._root, self._top)
        except EntryError as error:
            raise invalid(f"cannot import: {error}") from None
        finally:
            self._close()
        return {"entry_count": self._decoder.count, "bytes_written": self._decoder.bytes}

    def _begin(self, entry: Entry) -> None:
        if entry.type == "root" and self._overlay:
            self._top = entry
            return
        parent, name = self._locate(os.fsencode(entry.path))
        try:
            self._make(entry, parent, name)
        except FileExistsError:
            raise EntryError(f"{entry.path[:200]!r} comes twice") from None

    def _make(self, entry: Entry, parent: int, name: bytes) -> None:
        if entry.type == "directory":
            os.mkdir(name, 0o700, dir_fd=parent)
            self._directories.append(entry)
        elif entry.type == "file":
            self._file = os.open(name, _NEW, 0o600, dir_fd=parent)
            self._entry = entry
            if entry.extents is None and entry.size >= LARGE:
                self._large = LargeFile(self._file)
        elif entry.type == "symlink":
            os.symlink(os.fsencode(entry.target), name, dir_fd=parent)
            self._own(entry, parent, name)
            os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)
        elif entry.type == "hardlink":
            self._link(entry, name)
        elif not self._overlay:
            raise EntryError(f"a {entry.type} has no place here")
        elif entry.type == "whiteout":
            os.mknod(name, stat.S_IFCHR, os.makedev(0, 0), dir_fd=parent)
        elif entry.type == "opaque":
            _mark(parent, name, OPAQUE, b"y")
        else:
            _mark(parent, name, REDIRECT, os.fsencode(entry.target))
            # Or its inode number would be another one in a listing than by itself.
            os.setxattr(f"/proc/self/fd/{parent}", IMPURE, b"y")

    def _write(self, piece: Piece) -> None:
        if self._large is not None:
            self._large.write(piece.data, piece.offset)
            return
        os.lseek(self._file, piece.offset, os.SEEK_SET)
        write_all(self._file, piece.data)

    def _finish_file(self) -> None:
        entry = self._entry
        if entry is None:
            return
        if entry.extents is not None:
            os.ftruncate(self._file, entry.size)
        if self._overlay:
            os.fchown(self._file, entry.uid, entry.gid)
        for attribute, value in entry.xattrs:
            os.setxattr(self._file, attribute, value)
        os.fchmod(self._file, entry.mode)
        os.utime(self._file, ns=(entry.mtime_ns, entry.mtime_ns))
        os.close(self._file)
        self._file, self._large, self._entry = -1, None, None

    def _dress(self, entry: Entry) -> None:
        """A directory gets its mode and time last, so that neither hinders what goes into it."""
        parent, name = self._locate(os.fsencode(entry.path))
        fd = os.open(name, _DIRECTORY, dir_fd=parent)
        try:
            self._set(fd, entry)
        finally:
            os.close(fd)

    def _set(self, directory: int, entry: Entry) -> None:
        own = f"/proc/self/fd/{directory}"
        if self._overlay:
            os.chown(own, entry.uid, entry.gid)
        for attribute, value in entry.xattrs:
            os.setxattr(own, attribute, value)
        os.utime(own, ns=(entry.mtime_ns, entry.mtime_ns))
        os.chmod(own, entry.mode)

    def _own(self, entry: Entry, parent: int, name: bytes) -> None:
        if self._overlay:
            os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)

    def _link(self, entry: Entry, name: bytes) -> None:
        target, target_name = self._walk(os.fsencode(entry.target).split(b"/"))
        try:
            kind = os.stat(target_name, dir_fd=target, follow_symlinks=False).st_mode
            if not stat.S_ISREG(kind):
                raise EntryError(f"{entry.path[:200]!r} is a hard link to what is no file")
            assert self._parent is not None
            os.link(target_name, name, src_dir_fd=target, dst_dir_fd=self._parent[1], follow_symlinks=False)
        except FileNotFoundError:
            raise EntryError(f"{entry.path[:200]!r} is a hard link to what did not come before it") from None
        finally:
            os.close(target)

    def _locate(self, path: bytes) -> tuple[int, bytes]:
        """The parent of `path`, kept open for the next entry, and the last name."""
        above, _, name = path.rpartition(b"/")
        if self._parent is None or self._parent[0] != above:
            if self._parent is not None:
                os.close(self._parent[1])
                self._parent = None
            self._parent = (above, self._walk(path.split(b"/"))[0])
        return self._parent[1], name

    def _walk(self, parts: list[bytes]) -> tuple[int, bytes]:
        here = os.dup(self._root)
        try:
            for part in parts[:-1]:
                deeper = os.open(part, _DIRECTORY, dir_fd=here)
                os.close(here)
                here = deeper
        except (FileNotFoundError, NotADirectoryError):
            os.close(here)
            shown = b"/".join(parts)[:200].decode("utf-8", "backslashreplace")
            raise EntryError(f"{shown!r} comes before its directory, or below what is no directory") from None
        except OSError:
            os.close(here)
            raise
        return here, parts[-1]

    def _close(self) -> None:
        if self._parent is not None:
            os.close(self._parent[1])
            self._parent = None
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _mark(parent: int, name: bytes, mark: str, value: bytes) -> None:
    fd = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        os.setxattr(f"/proc/self/fd/{fd}", mark, value)
    finally:
        os.close(fd)


def tree_unpack(tree: Tree, stream: Stream) -> dict[str, Any]:
    """dest, replace? ← entries on DATA 0 → path, entry_count, bytes_written.

    A file or link that is there with the same content and attributes stays as it is, but for a file's permissions. One
    whose content changes is as new as the moment, or as its source if that is newer: what was built from the old one is
    then older.

    All is staged first: a damaged sequence, a full disk, a cancellation or the agent's death leaves the workspace as it
    was. Directories that exist are merged into; files and links that exist are replaced, or without `replace` refused.
    """
    parts = relative("import into", stream.params.get("dest", "."), "dest")
    replace = read.flag({"replace": True, **stream.params}, "replace")
    flow = Flow(stream)
    try:
        with Stage(tree) as stage:
            os.mkdir(b"new", 0o700, dir_fd=stage.fd)
            fresh = os.open(b"new", _DIRECTORY, dir_fd=stage.fd)
            try:
                counts = Unpacker(fresh).run(flow.pieces())
                with tree.lock(flow.check):
                    retry_rollback(tree)
                    flow.check()
                    dest, known = tree.resolved(parts)
                    merge = Merge(dest, replace=replace, check=flow.check)
                    if known == len(dest):
                        with tree.existing(dest, links=False) as place:
                            merge.into(fresh, place)
                    else:
                        merge.below(fresh, known)
                    commit(tree, stage, merge.steps)
                    return {"path": os.fsdecode(absolute(dest)), **counts}
            finally:
                os.close(fresh)
    except OSError as error:
        raise failure("import into", absolute(parts), error) from None
    finally:
        flow.close()


class Merge:
    """The steps by which what is staged in `new` comes to `dest`. Raises `AgentError` for what cannot go there."""

    def __init__(self, dest: list[bytes], *, replace: bool, check: Callable[[], None]) -> None:
        self._check = check
        self.steps: list[Step] = []
        self._dest = dest
        self._replace = replace

    def below(self, new: int, known: int) -> None:
        """`dest` is to be made, from its `known`-th part on."""
        self.steps += [Step("make", b"/".join(self._dest[:length])) for length in range(known + 1, len(self._dest) + 1)]
        for name in listing(new):
            self._put("put", [name])

    def into(self, new: int, place: ResolvedPath) -> None:
        """`dest` is at `place`."""
        if not place.is_directory():
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        self._merge(new, place.fd, [])

    def _merge(self, new: int, old: int, path: list[bytes]) -> None:
        for name, mode, present in _pairs(new, old):
            below = [*path, name]
            if not self._dest and not path and name.startswith(STAGE_PREFIX):
                raise invalid(f"cannot import {_shown(below)}: the name is reserved", "Leave it out of the source.")
            both = stat.S_ISDIR(mode), present is not None and stat.S_ISDIR(present)
            if present is None:
                self._put("put", below)
            elif all(both):
                _inside(new, old, name, partial(self._merge, path=below))
            elif any(both):
                shown = show(absolute([*self._dest, *below]))
                which = "is a directory in the source only" if both[0] else "is a directory, and in the source none"
                raise AgentError("conflict", f"cannot import {shown}: it {which}", "Remove what is there first.")
            elif not self._replace:
                raise AgentError("conflict", f"cannot import {_shown(below)}: it exists already", "Allow replacing.")
            elif not _equal(new, old, name, self._check):
                _renew(new, name)
                self._put("swap", below)
            elif stat.S_ISREG(mode) and stat.S_IMODE(mode) != stat.S_IMODE(present):
                there = b"/".join([*self._dest, *below])
                self.steps.append(Step("mode", there, before=stat.S_IMODE(present), after=stat.S_IMODE(mode)))

    def _put(self, kind: str, path: list[bytes]) -> None:
        backup = b"o%d" % len(self.steps) if kind == "swap" else b""
        self.steps.append(Step(kind, b"/".join([*self._dest, *path]), b"/".join([b"new", *path]), backup))


def _shown(path: list[bytes]) -> str:
    return show(b"/".join(path))


def _pairs(new: int, old: int) -> Iterable[tuple[bytes, int, int | None]]:
    for name in listing(new):
        mode = os.stat(name, dir_fd=new, follow_symlinks=False).st_mode
        try:
            present = os.stat(name, dir_fd=old, follow_symlinks=False).st_mode
        except FileNotFoundError:
            present = None
        yield name, mode, present


def _equal(new: int, old: int, name: bytes, check: Callable[[], None]) -> bool:
    """Whether `name` is in both directories a link to the same place, or a file of the same content, with all the
    extended attributes that are to come."""
    one, two = (os.stat(name, dir_fd=fd, follow_symlinks=False) for fd in (new, old))
    if stat.S_IFMT(one.st_mode) != stat.S_IFMT(two.st_mode):
        return False
    if stat.S_ISLNK(one.st_mode):
        return os.readlink(name, dir_fd=new) == os.readlink(name, dir_fd=old)
    return stat.S_ISREG(one.st_mode) and one.st_size == two.st_size and _same_content(new, old, name, check)


def _same_content(new: int, old: int, name: bytes, check: Callable[[], None]) -> bool:
    try:
        with (
            open(os.open(name, _READ, dir_fd=new), "rb", buffering=0) as one,
            open(os.open(name, _READ, dir_fd=old), "rb", buffering=0) as two,
        ):
            wanted, there = ({(at, os.getxattr(file.fileno(), at)) for at in _own_xattrs(file)} for file in (one, two))
            return wanted <= there and same_content(one.fileno(), two.fileno(), check)
    except PermissionError:
        return False


def _own_xattrs(file: IO[bytes]) -> list[str]:
    try:
        return [name for name in os.listxattr(file.fileno()) if name.startswith("user.")]
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return []


def _renew(new: int, name: bytes) -> None:
    """Let what replaces a file count as changed now, unless its own time is later still."""
    mtime = max(os.stat(name, dir_fd=new, follow_symlinks=False).st_mtime_ns, time.time_ns())
    os.utime(name, ns=(mtime, mtime), dir_fd=new, follow_symlinks=False)


def _inside(new: int, old: int, name: bytes, work: Callable[[int, int], None]) -> None:
    inner = os.open(name, _DIRECTORY, dir_fd=new)
    try:
        outer = os.open(name, _DIRECTORY, dir_fd=old)
        try:
            work(inner, outer)
        finally:
            os.close(outer)
    finally:
        os.close(inner)
