"""stage: new content is made complete beside the workspace's own, then moved in by renames."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from types import TracebackType

from pyro_mcp.guest.tree.paths import ResolvedPath, Tree
from pyro_mcp.protocol.entries import STAGE_PREFIX

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Stage:
    """A private directory at the root of `tree`, removed with all that is left in it unless `keep` is set."""

    def __init__(self, tree: Tree, name: bytes | None = None) -> None:
        self.tree = tree
        self.name = name or unused_name()
        self.keep = False
        self._root = tree.open_root()
        try:
            if name is None:
                os.mkdir(self.name, 0o700, dir_fd=self._root)
            self.fd = os.open(self.name, _DIRECTORY, dir_fd=self._root)
        except OSError:
            os.close(self._root)
            raise

    @classmethod
    def reopen(cls, tree: Tree, name: bytes) -> Stage:
        """The one that is there already. Raises `OSError`."""
        return cls(tree, name)

    def __enter__(self) -> Stage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.fd)
        try:
            if not self.keep:
                remove(self._root, self.name)
        finally:
            os.close(self._root)

    def find(self, name: bytes) -> ResolvedPath:
        """What is staged at the path `name`; it may be missing."""
        return self.tree.find([self.name, *name.split(b"/")], links=False)

    def write(self, name: bytes, pieces: Iterable[bytes | memoryview], mode: int = 0o600) -> int:
        """Make a file of `pieces`; its size."""
        fd = os.open(name, _NEW, 0o600, dir_fd=self.fd)
        try:
            size = write_pieces(fd, pieces)
            os.fchmod(fd, mode)
        finally:
            os.close(fd)
        return size

    def flush(self) -> None:
        """On a durable tree: everything done so far is on disk."""
        self.tree.disk.all(self.fd)


class StagedFile:
    """A single new file at the root of `tree`, removed unless `moved`: cheaper than a directory with a file in it."""

    def __init__(self, tree: Tree) -> None:
        self.name = unused_name()
        self.moved = False
        self.root = tree.open_root()
        try:
            self.fd = os.open(self.name, _NEW, 0o600, dir_fd=self.root)
        except OSError:
            os.close(self.root)
            raise

    def __enter__(self) -> StagedFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.fd)
        if not self.moved:
            remove(self.root, self.name)
        os.close(self.root)


def unused_name() -> bytes:
    """A name for work in progress at the root of a workspace."""
    return STAGE_PREFIX + os.urandom(8).hex().encode()


def write_pieces(fd: int, pieces: Iterable[bytes | memoryview]) -> int:
    """Write all of `pieces`; how many bytes that were."""
    size = 0
    for piece in pieces:
        write_all(fd, piece)
        size += len(piece)
    return size


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all of `data`."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def listing(fd: int) -> list[bytes]:
    """The names in the directory that `fd` stands for, sorted. O_PATH descriptors serve too."""
    return sorted(os.fsencode(name) for name in os.listdir(f"/proc/self/fd/{fd}"))


def remove(parent: int, name: bytes) -> None:
    """Remove `name` and all below it, however deep, never following a link. What resists is left behind."""
    _Remover(parent).remove(name)


class _Remover:
    """Depth is unbounded in a guest's tree, so descend by `..` rather than by one descriptor per level."""

    def __init__(self, parent: int) -> None:
        self._parent = parent

    def remove(self, name: bytes) -> None:
        if not _unlink(self._parent, name):
            return
        path = [name]
        here = _enter(self._parent, name)
        try:
            while path and here >= 0:
                child = _first_directory(here)
                if child is not None:
                    deeper = _enter(here, child)
                    if deeper < 0:
                        return
                    os.close(here)
                    here = deeper
                    path.append(child)
                    continue
                last = path.pop()
                above = os.dup(self._parent) if not path else os.open(b"..", _DIRECTORY, dir_fd=here)
                os.close(here)
                here = above
                try:
                    os.rmdir(last, dir_fd=here)
                except OSError:
                    return
        finally:
            if here >= 0:
                os.close(here)


def _enter(parent: int, name: bytes) -> int:
    try:
        return os.open(name, _DIRECTORY, dir_fd=parent)
    except PermissionError:
        pass
    except OSError:
        return -1
    try:
        os.chmod(name, 0o700, dir_fd=parent)
        return os.open(name, _DIRECTORY, dir_fd=parent)
    except OSError:
        return -1


def _first_directory(fd: int) -> bytes | None:
    """Unlink everything in `fd` up to the first directory; that one's name."""
    if os.fstat(fd).st_mode & 0o700 != 0o700:
        os.fchmod(fd, 0o700)
    for name in listing(fd):
        if _unlink(fd, name):
            return name
    return None


def _unlink(parent: int, name: bytes) -> bool:
    """Unlink `name` unless it is a directory: True then."""
    try:
        if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            return True
        os.unlink(name, dir_fd=parent)
    except OSError:
        pass
    return False
