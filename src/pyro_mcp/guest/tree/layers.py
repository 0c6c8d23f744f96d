"""layers: which names of /workspace may differ from the seed.

The overlay's upper directory says which; what they are is read through the mounted overlay, so only the kernel decides
what a mark means. A seed's hard link that was changed has one copy in the overlay's index and no name in the upper
directory but the one it was changed by: its other names are found in the seed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from types import TracebackType

from pyro_mcp.guest.tree.stage import listing
from pyro_mcp.protocol.overlay import inode_of

OPAQUE, REDIRECT, IMPURE = "trusted.overlay.opaque", "trusted.overlay.redirect", "trusted.overlay.impure"
MAX_REDIRECT = 4095
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Linked = dict[bytes, set[bytes]]
"""By directory of the seed, the names in it that are changed hard links or lead to some."""


class Layers:
    """Where the changes are: `new` opens the workspace, `old` the baseline if there is one, and `upper` what may
    differ, None when everything may."""

    def __init__(
        self,
        new: Callable[[], int],
        old: Callable[[], int | None],
        upper: Callable[[], Upper | None] = lambda: None,
    ) -> None:
        self.new = new
        self.old = old
        self.upper = upper


class Upper:
    """A directory of the upper layer. `lower` is the path in the seed of what it is merged with, None for nothing;
    `mark` is the entry, type and target, that says so. `fd` is -1 for one that only holds changed hard links."""

    def __init__(self, fd: int, lower: bytes | None, linked: Linked, mark: tuple[str, str] | None = None) -> None:
        self.fd = fd
        self.lower = lower
        self.mark = mark
        self._linked = linked

    def names(self) -> list[bytes]:
        """What may differ in it, sorted."""
        linked = set() if self.lower is None else self._linked.get(self.lower, set())
        return sorted(linked.union(listing(self.fd) if self.fd >= 0 else ()))

    def hides(self, name: bytes) -> bool:
        """Whether the overlay's mark for a name that is gone stands there."""
        try:
            return self.fd >= 0 and is_whiteout(os.stat(name, dir_fd=self.fd, follow_symlinks=False))
        except FileNotFoundError:
            return False

    def enter(self, name: bytes) -> Upper:
        """The directory `name` in it."""
        lower = None if self.lower is None else join(self.lower, name)
        try:
            fd = -1 if self.fd < 0 else os.open(name, _DIRECTORY, dir_fd=self.fd)
        except (FileNotFoundError, NotADirectoryError):
            fd = -1
        if fd < 0:
            return Upper(-1, lower, self._linked)
        if _xattr(fd, OPAQUE) == b"y":
            return Upper(fd, None, self._linked, ("opaque", ""))
        moved = _xattr(fd, REDIRECT)
        if moved:
            return Upper(fd, redirected(self.lower, moved), self._linked, ("redirect", os.fsdecode(moved)))
        return Upper(fd, lower, self._linked)

    def again(self) -> Upper:
        """The same directory, to be closed by whoever takes it."""
        return Upper(-1 if self.fd < 0 else os.dup(self.fd), self.lower, self._linked, self.mark)

    def __enter__(self) -> Upper:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.fd >= 0:
            os.close(self.fd)


class HardLinks:
    """The hard links of a seed, an open directory that never changes; `index` opens the overlay's index."""

    def __init__(self, seed: int, index: Callable[[], int]) -> None:
        self._seed = seed
        self._index = index
        self._names: dict[int, list[bytes]] | None = None

    def changed(self) -> Linked:
        """Every name of those that were changed. Only when there are some does this walk the seed, once."""
        index = self._index()
        try:
            inodes = [inode for inode in map(inode_of, listing(index)) if inode]
        finally:
            os.close(index)
        found: Linked = {}
        for inode in inodes:
            for path in self._all().get(inode, ()):
                _add(found, path)
        return found

    def _all(self) -> dict[int, list[bytes]]:
        if self._names is None:
            self._names = {}
            for directory, _, files, fd in os.fwalk(b".", dir_fd=self._seed):
                for name in files:
                    status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                    if status.st_nlink > 1:
                        self._names.setdefault(status.st_ino, []).append(join(directory[2:], name))
        return self._names


def redirected(parent: bytes | None, target: bytes) -> bytes | None:
    """The path in the seed of a directory whose mark says `target`, in one that is merged with `parent`."""
    if target.startswith(b"/"):
        return target[1:]
    return None if parent is None else join(parent, target)


def is_whiteout(status: os.stat_result) -> bool:
    """Whether this is the overlay's mark for a name that is gone."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def join(above: bytes, name: bytes) -> bytes:
    """The path of `name` in the directory `above`, of which the root is empty."""
    return above + b"/" + name if above else name


def _add(found: Linked, path: bytes) -> None:
    while path:
        path, _, name = path.rpartition(b"/")
        found.setdefault(path, set()).add(name)


def _xattr(fd: int, name: str) -> bytes:
    """The mark, or nothing; one that no kernel makes counts as none."""
    try:
        value = os.getxattr(f"/proc/self/fd/{fd}", name)
    except OSError:
        return b""
    return b"" if len(value) > MAX_REDIRECT or b"\0" in value else value
