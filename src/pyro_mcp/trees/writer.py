"""Entries become files below one directory of the host, whoever sent them.

The directory is new and private. Members are made by `openat` without following links and never over anything that is
there, so a sequence that names a link and then a file below it, or a name twice, is refused by the kernel itself.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from pyro_mcp.errors import InvalidArgument
from pyro_mcp.protocol.entries import Entry, Piece, check
from pyro_mcp.trees.limits import Limits, Meter

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_THROUGH = (errno.ELOOP, errno.ENOTDIR, errno.ENOENT)


class TreeWriter:
    """Writes below the directory `root`, which must be empty and ours. `what` completes "cannot …" in errors.

    `mask` keeps these bits of each mode, `directory_bits` are added to those of directories; `xattrs` keeps extended
    attributes where the file system can. Errors: `InvalidArgument`
    for what the sequence may not do, `OSError`.
    """

    def __init__(
        self,
        root: Path,
        *,
        what: str,
        mask: int,
        directory_bits: int = 0,
        xattrs: bool = False,
        limits: Limits | None = None,
        cancelled: threading.Event | None = None,
        emit: Callable[[int, int], None] | None = None,
    ) -> None:
        self.root = root
        self.files: dict[str, int] = {}
        """Mode of each regular file written, by path; hard links too."""
        self.links: dict[str, str] = {}
        """Target of each symbolic link written, by path."""
        self.directories: dict[str, Entry] = {}
        self.bare: list[str] = []
        """Paths of what has lost its extended attributes."""
        self.meter = Meter(limits or Limits(), what, cancelled=cancelled, emit=emit)
        self._what = what
        self._mask = mask
        self._directory_bits = directory_bits
        self._xattrs = xattrs
        self._root = os.open(root, _DIRECTORY)
        self._parent: tuple[str, int] = ("", self._root)
        self._open: tuple[Entry, int] | None = None

    def __enter__(self) -> TreeWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._open is not None:
            os.close(self._open[1])
        self._drop_parent()
        os.close(self._root)

    def write(self, items: Iterable[Entry | Piece]) -> None:
        """Write the whole sequence. `finish` comes last."""
        for item in items:
            if isinstance(item, Entry):
                self._finish_file()
                self._begin(item)
            else:
                self._piece(item)
        self._finish_file()

    def unlink(self, path: str) -> None:
        """Take back the symbolic link `path`."""
        parent, _, name = path.rpartition("/")
        os.unlink(name, dir_fd=self._directory(parent))
        del self.links[path]

    def finish(self) -> None:
        """Set the directories' modes and times, the innermost first."""
        for path, entry in reversed(self.directories.items()):
            descriptor = self._walk(path)
            try:
                self._attributes(entry, descriptor)
                os.utime(descriptor, ns=(entry.mtime_ns, entry.mtime_ns))
                os.fchmod(descriptor, entry.mode & self._mask | self._directory_bits)
            finally:
                os.close(descriptor)

    def _begin(self, entry: Entry) -> None:
        check(entry)
        self.meter.add(entry.path, entry.size)
        parent, _, name = entry.path.rpartition("/")
        try:
            self._make(entry, self._directory(parent), name)
        except FileExistsError:
            raise self._refused(f"{entry.path!a} occurs twice") from None
        except OSError as error:
            if error.errno in _THROUGH:
                raise self._refused(f"{entry.path!a} is below a link, or below nothing") from None
            raise

    def _make(self, entry: Entry, parent: int, name: str) -> None:
        if entry.type == "file":
            self._open = (entry, os.open(name, _FILE, 0o600, dir_fd=parent))
            self.files[entry.path] = entry.mode & self._mask
        elif entry.type == "directory":
            os.mkdir(name, 0o700, dir_fd=parent)
            self.directories[entry.path] = entry
        elif entry.type == "symlink":
            os.symlink(entry.target, name, dir_fd=parent)
            os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)
            self.links[entry.path] = entry.target
        elif entry.type == "hardlink":
            self._link(entry, parent, name)
        else:
            raise self._refused(f"{entry.path!a} is a {entry.type}, which has no meaning here")

    def _link(self, entry: Entry, parent: int, name: str) -> None:
        if entry.target not in self.files:
            raise self._refused(f"{entry.path!a} is a hard link to {entry.target!a}, which is no file before it")
        above, _, old = entry.target.rpartition("/")
        source = self._walk(above)
        try:
            os.link(old, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(source)
        self.files[entry.path] = self.files[entry.target]

    def _piece(self, piece: Piece) -> None:
        if self._open is None or piece.offset + len(piece.data) > self._open[0].size:
            raise self._refused("bytes that belong to no file")
        view, offset = memoryview(piece.data), piece.offset
        while view:
            count = os.pwrite(self._open[1], view, offset)
            view, offset = view[count:], offset + count

    def _finish_file(self) -> None:
        if self._open is None:
            return
        entry, descriptor = self._open
        self._open = None
        try:
            if os.fstat(descriptor).st_size != entry.size:
                os.ftruncate(descriptor, entry.size)
            self._attributes(entry, descriptor)
            os.fchmod(descriptor, self.files[entry.path])
            os.utime(descriptor, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(descriptor)

    def _attributes(self, entry: Entry, descriptor: int) -> None:
        try:
            for name, value in entry.xattrs if self._xattrs else ():
                os.setxattr(descriptor, name, value)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            self.bare.append(entry.path)
        if entry.xattrs and not self._xattrs:
            self.bare.append(entry.path)

    def _directory(self, path: str) -> int:
        """The open directory `path`; the one used last stays open."""
        if self._parent[0] != path:
            descriptor = self._walk(path)
            self._drop_parent()
            self._parent = (path, descriptor)
        return self._parent[1]

    def _walk(self, path: str) -> int:
        current = os.open(".", _DIRECTORY, dir_fd=self._root)
        for part in path.split("/") if path else ():
            try:
                below = os.open(part, _DIRECTORY, dir_fd=current)
            finally:
                os.close(current)
            current = below
        return current

    def _drop_parent(self) -> None:
        if self._parent[1] != self._root:
            os.close(self._parent[1])
        self._parent = ("", self._root)

    def _refused(self, cause: str) -> InvalidArgument:
        return InvalidArgument(f"cannot {self._what}: {cause}")


def remove_tree(root: Path) -> None:
    """Remove a tree of any modes, following no link. What cannot be removed stays."""
    shutil.rmtree(root, ignore_errors=True)
    if not root.exists():
        return
    # Directories that their owner may not enter are in the way.
    os.chmod(root, 0o700)
    for _, names, _, descriptor in os.fwalk(root):
        for name in names:
            with contextlib.suppress(OSError):
                below = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=descriptor)
                try:
                    os.chmod(f"/proc/self/fd/{below}", 0o700)
                finally:
                    os.close(below)
    shutil.rmtree(root, ignore_errors=True)
