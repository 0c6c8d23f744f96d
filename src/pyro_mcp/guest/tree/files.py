"""files: list, read and write single files of the workspace."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pyro_mcp.guest import params as read
from pyro_mcp.guest.errors import invalid
from pyro_mcp.guest.flow import Flow, Piece
from pyro_mcp.guest.tree.direct import LARGE, LargeFile
from pyro_mcp.guest.tree.glob import Glob
from pyro_mcp.guest.tree.lines import send_lines
from pyro_mcp.guest.tree.paths import (
    IS_DIRECTORY,
    ResolvedPath,
    Tree,
    absolute,
    artifact_type,
    failure,
    relative,
    show,
)
from pyro_mcp.guest.tree.precondition import precondition, verify
from pyro_mcp.guest.tree.reading import PIECE, no_content, send_file, send_link
from pyro_mcp.guest.tree.stage import Stage, StagedFile, listing, write_pieces
from pyro_mcp.guest.tree.transaction import IN_DOUBT, retry_rollback
from pyro_mcp.protocol.channel import Stream
from pyro_mcp.protocol.digest import sha256
from pyro_mcp.protocol.entries import MAX_DEPTH, MAX_SIZE, STAGE_PREFIX
from pyro_mcp.protocol.frames import encode_json

MAX_LIST = 50_000
MAX_ANSWER = 900_000
"""Bytes of JSON in one answer; the channel takes a mebibyte."""
SNIFF = 8192
GIT = b".git"
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class AgentFiles:
    """The verbs `file_list`, `file_read`, `file_lines` and `file_write` on one tree."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    def list(self, stream: Stream) -> dict[str, Any]:
        """path, recursive, pattern?, limit, offset? → path, entries[{path,artifact_type,size_bytes,link_target}] after
        the first `offset`, truncated."""
        parts = relative("list", stream.params.get("path", "."))
        pattern = stream.params.get("pattern")
        glob = None if pattern is None else Glob(read.text(stream.params, "pattern", limit=1024))
        limit = read.integer({"limit": 1000, **stream.params}, "limit", min_=1, max_=MAX_LIST)
        offset = read.integer({"offset": 0, **stream.params}, "offset", min_=0, max_=MAX_SIZE)
        flow = Flow(stream)
        try:
            with self._tree.existing(parts) as place:
                found = _Found(limit, offset)
                if place.is_directory():
                    deep = read.flag(stream.params, "recursive")
                    for path, fd in walk(place, recursive=deep, check=flow.check):
                        below = b"/".join(path[len(place.parts) :])
                        if (glob is None or glob.matches(below)) and not found.add(path, fd):
                            break
                else:
                    found.add(place.parts, place.fd)
                return {"path": os.fsdecode(place.path), "entries": found.entries, "truncated": found.truncated}
        except OSError as error:
            raise failure("list", absolute(parts), error) from None
        finally:
            flow.close()

    def read(self, stream: Stream) -> dict[str, Any]:
        """path, max_bytes, offset?, links? → the bytes from there on as DATA 1; path, artifact_type, size_bytes,
        truncated (more follows), sha256 of all (or null), binary, mode; unseen: of a large file that is sent whole,
        neither digest nor kind were looked at.

        Without `links` one at the end is itself what is read, one on the way is refused, and a directory has no bytes.
        """
        p = {"max_bytes": 65536, "offset": 0, "links": True, **stream.params}
        parts = relative("read", p.get("path"))
        max_ = read.integer(p, "max_bytes", min_=0, max_=MAX_SIZE)
        offset = read.integer(p, "offset", min_=0, max_=MAX_SIZE)
        follow = read.flag(p, "links")
        flow = Flow(stream)
        try:
            with self._tree.existing(parts, links=follow) as place:
                path = {"path": os.fsdecode(place.path)}
                if not follow and place.is_link():
                    return {**path, **send_link(place, offset, max_, flow)}
                if not follow and place.is_directory():
                    return {**path, **no_content(place.stat())}
                require_file(place, "read")
                fd = place.open(os.O_RDONLY)
                try:
                    return {**path, **send_file(fd, offset, max_, flow)}
                finally:
                    os.close(fd)
        except OSError as error:
            raise failure("read", absolute(parts), error) from None
        finally:
            flow.close()

    def lines(self, stream: Stream) -> dict[str, Any]:
        """path, first, count, max_bytes, max_line → the lines from the one numbered `first` on as DATA 1, of each at
        most `max_line` bytes; path, size_bytes, truncated (more follows), sha256 and line_count (null: not all was
        read), binary (a NUL was met), offset and next_offset (where the lines begin and end), next_line,
        cut[[line, bytes left out]].
        """
        parts = relative("read", stream.params.get("path"))
        wanted = {
            name: read.integer(stream.params, name, min_=1, max_=MAX_SIZE)
            for name in ("first", "count", "max_bytes", "max_line")
        }
        flow = Flow(stream)
        try:
            with self._tree.existing(parts) as place:
                require_file(place, "read")
                fd = place.open(os.O_RDONLY)
                try:
                    told = send_lines(fd, flow, max_=wanted.pop("max_bytes"), **wanted)
                finally:
                    os.close(fd)
                return {"path": os.fsdecode(place.path), **told}
        except OSError as error:
            raise failure("read", absolute(parts), error) from None
        finally:
            flow.close()

    def write(self, stream: Stream) -> dict[str, Any]:
        """path, size, mode?, expected_sha256? (null: must not exist) ← DATA 0 → path, size_bytes, sha256, created.

        The digest of a large file is left to the sender, who makes it fifty times faster.
        """
        parts = relative("write", stream.params.get("path"))
        size = read.integer(stream.params, "size", min_=0, max_=MAX_SIZE)
        mode = optional_mode(stream.params)
        expected = precondition(stream.params)
        flow = Flow(stream)
        try:
            with StagedFile(self._tree) as staged:
                digest = sha256()
                if size < LARGE:
                    write_pieces(staged.fd, digesting(flow.take(size), digest))
                else:
                    _write_large(staged.fd, flow, size)
                flow.require_end()
                with self._tree.lock(flow.check):
                    retry_rollback(self._tree)
                    path, known = self._tree.resolved(parts)
                    if not path:
                        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
                    with self._tree.find(path[: known + 1], links=False) as place:
                        _check_target(place, path, expected)
                        adopt_mode(staged.fd, place, mode)
                        self._tree.disk.data(staged.fd)
                        flow.check()
                        self._move(staged, place, path)
                        created = not place.exists
                self._settle(staged, path)
            own = digest.hexdigest() if size < LARGE else None
            return {"path": os.fsdecode(absolute(path)), "size_bytes": size, "sha256": own, "created": created}
        except OSError as error:
            raise failure("write", absolute(parts), error) from None
        finally:
            flow.close()

    def _settle(self, staged: StagedFile, path: Sequence[bytes]) -> None:
        try:
            self._tree.disk.file(staged.fd)
        except OSError as error:
            failed = failure("write", absolute([*path]), error)
            failed.message += f": {IN_DOUBT}"
            raise failed from None

    def _move(self, staged: StagedFile, place: ResolvedPath, path: Sequence[bytes]) -> None:
        """Into place by one rename; with it come the directories of `path` that are missing below `place`."""
        missing = path[len(place.parts) :]
        if not missing:
            os.rename(staged.name, place.name, src_dir_fd=staged.root, dst_dir_fd=place.parent)
            staged.moved = True
            return
        with Stage(self._tree) as stage:
            chain = [b"new", *missing[:-1]]
            for length in range(1, len(chain) + 1):
                os.mkdir(b"/".join(chain[:length]), 0o755, dir_fd=stage.fd)
            os.rename(staged.name, b"/".join([*chain, missing[-1]]), src_dir_fd=staged.root, dst_dir_fd=stage.fd)
            staged.moved = True
            os.rename(b"new", place.name, src_dir_fd=stage.fd, dst_dir_fd=place.parent)


def _write_large(fd: int, flow: Flow, size: int) -> None:
    file, offset = LargeFile(fd), 0
    for piece in flow.take(size):
        file.write(piece, offset)
        offset += len(piece)


def _check_target(place: ResolvedPath, path: list[bytes], expected: object) -> None:
    if place.exists:
        require_file(place, "write")
    seen = (lambda: digest_of(place)) if place.exists else None
    verify(lambda: f"cannot write {show(absolute(path))}", expected, seen)


class _Found:
    """Entries after the first `skip`, up to a count, and up to what one answer may weigh."""

    def __init__(self, limit: int, skip: int) -> None:
        self.entries: list[dict[str, Any]] = []
        self.truncated = False
        self._limit = limit
        self._skip = skip
        self._weight = 0

    def add(self, path: list[bytes], fd: int) -> bool:
        if self._skip:
            self._skip -= 1
            return True
        entry = describe(absolute(path), fd)
        self._weight += len(encode_json(entry)) + 1
        if len(self.entries) >= self._limit or self._weight > MAX_ANSWER:
            self.truncated = True
            return False
        self.entries.append(entry)
        return True


def describe(path: bytes, fd: int) -> dict[str, Any]:
    """One line of a listing."""
    status = os.fstat(fd)
    kind = artifact_type(status.st_mode)
    target = os.fsdecode(os.readlink(b"", dir_fd=fd)) if kind == "symlink" else None
    size = status.st_size if kind == "file" else 0
    return {"path": os.fsdecode(path), "artifact_type": kind, "size_bytes": size, "link_target": target}


def walk(
    place: ResolvedPath, *, recursive: bool, check: Callable[[], None], closed: bytes | None = None
) -> Iterator[tuple[list[bytes], int]]:
    """What is in the directory `place`, sorted, parents first: canonical path and an O_PATH descriptor valid until
    the next step. Links are shown, not followed; what vanishes meanwhile or cannot be entered is left out, and so is
    what is in directories named `closed`. A recursive walk comes to `.git` last: it has more in it than all else, and
    an answer that is cut should not hold that alone."""
    levels = [(os.dup(place.fd), iter(_git_last(listing(place.fd)) if recursive else listing(place.fd)))]
    path = list(place.parts)
    try:
        while levels:
            here, names = levels[-1]
            name = next(names, None)
            if name is None:
                os.close(levels.pop()[0])
                path = path[:-1]
                continue
            if not path and name.startswith(STAGE_PREFIX):
                continue
            check()
            fd = _open_or_none(here, name)
            if fd is None:
                continue
            try:
                yield [*path, name], fd
                deeper = recursive and name != closed and len(levels) < MAX_DEPTH
                if deeper and stat.S_ISDIR(os.fstat(fd).st_mode):
                    levels.append((os.dup(fd), iter(_git_last(_listing_or_nothing(fd)))))
                    path = [*path, name]
            finally:
                os.close(fd)
    finally:
        for fd, _ in levels:
            os.close(fd)


def _git_last(names: list[bytes]) -> list[bytes]:
    return sorted(names, key=lambda name: name == GIT)


def _open_or_none(parent: int, name: bytes) -> int | None:
    try:
        return os.open(name, _LOOK, dir_fd=parent)
    except (FileNotFoundError, PermissionError):
        return None


def _listing_or_nothing(fd: int) -> list[bytes]:
    try:
        return listing(fd)
    except (FileNotFoundError, PermissionError):
        return []


# -- shared with tree_apply


def require_file(place: ResolvedPath, verb: str) -> None:
    """Raise unless `place` is a regular file."""
    if not place.is_file():
        kind = artifact_type(place.stat().st_mode)
        named = {"directory": "a directory", "symlink": "a symbolic link"}.get(kind, "not a regular file")
        hint = IS_DIRECTORY if kind == "directory" else "Look at it, or remove it, with a command."
        raise invalid(f"cannot {verb} {show(place.path)}: it is {named}", hint)


def optional_mode(params: dict[str, Any]) -> int | None:
    """Permission bits without setuid, or None when absent."""
    if params.get("mode") is None:
        return None
    return read.integer(params, "mode", min_=0, max_=0o777)


def digest_of(place: ResolvedPath) -> str:
    """The SHA-256 of a regular file, or of a link's text."""
    digest = sha256()
    if place.is_link():
        digest.update(os.readlink(b"", dir_fd=place.fd))
        return digest.hexdigest()
    require_file(place, "digest")
    fd = place.open(os.O_RDONLY)
    try:
        while piece := os.read(fd, PIECE):
            digest.update(piece)
        return digest.hexdigest()
    finally:
        os.close(fd)


def digesting(pieces: Iterator[Piece], digest: Any) -> Iterator[Piece]:
    """`pieces`, each seen by `digest` on its way."""
    for piece in pieces:
        digest.update(piece)
        yield piece


def adopt_mode(fd: int, place: ResolvedPath, mode: int | None) -> None:
    """Give the new file `fd` `mode`; without one, the mode and owner of the file it replaces, or 0644."""
    if place.exists:
        status = place.stat()
        if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()) and os.geteuid() == 0:
            os.fchown(fd, status.st_uid, status.st_gid)
        os.fchmod(fd, status.st_mode & 0o777 if mode is None else mode)
    else:
        os.fchmod(fd, 0o644 if mode is None else mode)
