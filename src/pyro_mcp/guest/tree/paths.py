"""paths: names below the workspace's root, walked one component at a time.

Each component is opened by descriptor without following links, so nothing that another process renames or links
meanwhile leads out. A link is read and decided here: followed where it stays inside, refused where it leads out.
"""

from __future__ import annotations

import errno
import os
import stat
from types import TracebackType

from pyro_mcp.guest.errors import AgentError, cause, invalid
from pyro_mcp.guest.params import to_bytes
from pyro_mcp.guest.tree.fsync_policy import KernelSync
from pyro_mcp.guest.tree.tree_lock import TreeLock
from pyro_mcp.protocol.entries import MAX_DEPTH, MAX_NAME, MAX_PATH, STAGE_PREFIX

WORKSPACE = b"/workspace"
MAX_LINKS = 40
MAX_STEPS = 8192
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC

IS_DIRECTORY = "Give the path of a file; list the directory to see what is in it."
NO_SPACE = "Free space in the workspace, or give it a larger disk."
_CODES = {
    errno.ENOENT: "not_found",
    errno.ENOTDIR: "invalid_argument",
    errno.EISDIR: "invalid_argument",
    errno.ELOOP: "invalid_argument",
    errno.ENAMETOOLONG: "invalid_argument",
    errno.EXDEV: "invalid_argument",
    errno.EEXIST: "conflict",
    errno.ENOTEMPTY: "conflict",
    errno.EBUSY: "conflict",
    errno.ETXTBSY: "conflict",
    errno.ENOSPC: "disk_full",
    errno.EDQUOT: "disk_full",
    errno.EFBIG: "disk_full",
    errno.EACCES: "permission",
    errno.EPERM: "permission",
    errno.EROFS: "permission",
    errno.EMFILE: "capacity",
    errno.ENFILE: "capacity",
    errno.ENOMEM: "capacity",
}


_HINTS = {
    errno.ENOENT: "List the directory that it should be in, to find its name.",
    errno.ENOTDIR: "Something on the way to it is a file: list the directories above it.",
    errno.EISDIR: IS_DIRECTORY,
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.EXDEV: "Something is mounted there: write to it with a command, or unmount it first.",
    errno.EROFS: "It is mounted read-only: a command can remount it.",
    errno.EACCES: "Change its permissions with a command, or choose another path.",
    errno.EPERM: "Change its permissions with a command, or choose another path.",
    errno.ENOSPC: NO_SPACE,
    errno.EDQUOT: NO_SPACE,
    errno.EFBIG: NO_SPACE,
}


class Refused(OSError):
    """A path that leads where the workspace's rules do not. Whoever catches an `OSError` names verb and path."""

    def __init__(self, why: str, hint: str) -> None:
        super().__init__(errno.ELOOP, why)
        self.why = why
        self.hint = hint


def failure(verb: str, path: bytes, error: OSError) -> AgentError:
    """The typed error for what the system or a rule refused: cannot `verb` `path`: cause."""
    if isinstance(error, Refused):
        return invalid(f"cannot {verb} {show(path)}: {error.why}", error.hint)
    code = _CODES.get(error.errno or 0, "internal")
    return AgentError(code, f"cannot {verb} {show(path)}: {cause(error)}", _HINTS.get(error.errno or 0))


def show(path: bytes) -> str:
    """`path` for a message: bounded, and nothing in it that a terminal would obey."""
    text = path[:300].decode("utf-8", "backslashreplace")
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def relative(verb: str, value: object, name: str = "path") -> list[bytes]:
    """The components of a path that is absolute under /workspace or relative to it. Raises `AgentError`: cannot `verb`
    it, or `name` is no path."""
    raw = to_bytes(name, value, limit=MAX_PATH)

    def refused(why: str, hint: str) -> AgentError:
        return invalid(f"cannot {verb} {show(raw)}: {why}", hint)

    below = raw
    if raw == WORKSPACE or raw.startswith(WORKSPACE + b"/"):
        below = raw[len(WORKSPACE) :]
    elif raw.startswith(b"/"):
        raise refused("it is outside /workspace", "Give a path under /workspace, or a relative one.")
    elif not raw:
        raise invalid(f"{name} is empty", "Give a path under /workspace.")
    parts = [part for part in below.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise refused("it contains '..'", "Give the path without '..'.")
    if len(parts) > MAX_DEPTH or any(len(part) > MAX_NAME for part in parts):
        why = f"it has more than {MAX_DEPTH} parts, or one of more than {MAX_NAME} bytes"
        raise refused(why, "Choose a shorter path.")
    if parts and parts[0].startswith(STAGE_PREFIX):
        raise refused("the name is reserved", "Choose another name.")
    return parts


def artifact_type(mode: int) -> str:
    """`file`, `directory`, `symlink` or `other`."""
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink"}
    return kinds.get(stat.S_IFMT(mode), "other")


class ResolvedPath:
    """What a walk found: an open `parent`, the last `name` in it, and the thing itself as `fd`, or -1 if missing.

    `parts` is the canonical path, free of links. The root is its own parent and has an empty name.
    """

    def __init__(self, parent: int, parts: list[bytes], fd: int) -> None:
        self.parent = parent
        self.parts = parts
        self.fd = fd

    @property
    def name(self) -> bytes:
        return self.parts[-1] if self.parts else b""

    @property
    def path(self) -> bytes:
        return absolute(self.parts)

    @property
    def exists(self) -> bool:
        return self.fd >= 0

    def stat(self) -> os.stat_result:
        return os.fstat(self.fd)

    def is_directory(self) -> bool:
        return self.exists and stat.S_ISDIR(self.stat().st_mode)

    def is_file(self) -> bool:
        return self.exists and stat.S_ISREG(self.stat().st_mode)

    def is_link(self) -> bool:
        return self.exists and stat.S_ISLNK(self.stat().st_mode)

    def open(self, flags: int) -> int:
        """The same thing, not the same name, opened for use."""
        return reopen(self.fd, flags)

    def __enter__(self) -> ResolvedPath:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for fd in {self.parent, self.fd}:
            if fd >= 0:
                os.close(fd)


def reopen(fd: int, flags: int) -> int:
    """Open what an O_PATH descriptor stands for."""
    return os.open(f"/proc/self/fd/{fd}", flags | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)


def absolute(parts: list[bytes]) -> bytes:
    """The path a user knows."""
    return b"/".join([WORKSPACE, *parts])


class Tree:
    """The workspace's directory, at `real` in this agent's view, on a `disk`."""

    def __init__(self, real: bytes, disk: KernelSync | None = None) -> None:
        self.real = real
        self.disk = disk or KernelSync()
        self.lock = TreeLock()
        self.unfinished: set[bytes] = set()
        """Names of stages whose steps could not be taken back yet."""

    def open_root(self) -> int:
        """A descriptor for the root. Raises `OSError`."""
        return os.open(self.real, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def find(self, parts: list[bytes], *, links: bool = True) -> ResolvedPath:
        """Walk to `parts`; the last may be missing.

        `links` follows those that stay inside; otherwise one on the way is refused and a last one is itself the
        answer. Raises `OSError`, which for a link that leads out is `Refused`.
        """
        return _Walk(self, parts, links).run()

    def existing(self, parts: list[bytes], *, links: bool = True) -> ResolvedPath:
        """Like `find`, for what must exist."""
        place = self.find(parts, links=links)
        if not place.exists:
            os.close(place.parent)
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return place

    def resolved(self, parts: list[bytes]) -> tuple[list[bytes], int]:
        """The canonical path of what may be missing with its parents, and how many of its parts exist already.

        Links that stay inside are followed as far as there is something. Raises as `find` does.
        """
        for length in range(len(parts), -1, -1):
            try:
                with self.find(parts[:length]) as place:
                    known = place.parts if place.exists else place.parts[:-1]
                    return [*place.parts, *parts[length:]], len(known)
            except FileNotFoundError:
                continue
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


class _Walk:
    def __init__(self, tree: Tree, parts: list[bytes], links: bool) -> None:
        self._tree = tree
        self._todo = list(reversed(parts))
        self._follow = links
        self._names: list[bytes] = []
        self._links = self._steps = 0
        self._here = -1
        self._above = -1

    def run(self) -> ResolvedPath:
        self._restart()
        try:
            while self._todo:
                self._step()
            if self._names and self._above < 0:
                raise AssertionError("a walk ends with a parent")
        except BaseException:
            for fd in (self._here, self._above):
                if fd >= 0:
                    os.close(fd)
            raise
        if self._names:
            return ResolvedPath(self._above, self._names, self._here)
        return ResolvedPath(self._here, [], self._here)

    def _restart(self) -> None:
        """Begin again at the root, which is how '..' is walked."""
        for fd in (self._here, self._above):
            if fd >= 0:
                os.close(fd)
        self._here = self._above = -1
        self._here = self._tree.open_root()

    def _step(self) -> None:
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        part = self._todo.pop()
        if part in (b"", b"."):
            return
        if part == b"..":
            self._up()
            return
        if self._here < 0:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        fd = self._look(part)
        if fd >= 0 and stat.S_ISLNK(os.fstat(fd).st_mode) and (self._follow or self._todo):
            self._link(fd)
            return
        if self._above >= 0:
            os.close(self._above)
        self._above, self._here = self._here, fd
        self._names.append(part)

    def _look(self, part: bytes) -> int:
        try:
            return os.open(part, _LOOK, dir_fd=self._here)
        except FileNotFoundError:
            return -1

    def _up(self) -> None:
        if not self._names:
            raise self._outside()
        self._todo += reversed(self._names[:-1])
        self._names = []
        self._restart()

    def _link(self, fd: int) -> None:
        try:
            target = os.readlink(b"", dir_fd=fd)
        finally:
            os.close(fd)
        if not self._follow:
            raise Refused("it goes through a symbolic link", "Name the real path.")
        self._links += 1
        if self._links > MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        if target.startswith(b"/"):
            real = self._tree.real
            if target != real and not target.startswith(real + b"/"):
                raise self._outside()
            target = target[len(real) :]
            self._names = []
            self._restart()
        self._todo += reversed(target.split(b"/"))

    def _outside(self) -> Refused:
        return Refused(
            "it leads out of /workspace through a symbolic link", "Only what lies under /workspace can be reached."
        )
