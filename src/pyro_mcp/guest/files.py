"""files: list, read and write single files of the workspace."""

from __future__ import annotations

import codecs
import os
import stat
import threading
from collections.abc import Callable, Iterator
from typing import Any

from pyro_mcp.guest import params as read
from pyro_mcp.guest.errors import AgentError, invalid
from pyro_mcp.guest.flow import Flow
from pyro_mcp.guest.glob import Glob
from pyro_mcp.guest.paths import (
    STAGE_PREFIX,
    Place,
    Tree,
    absolute,
    failure,
    relative,
    reopen,
    show,
)
from pyro_mcp.guest.stage import Stage, listing
from pyro_mcp.protocol.channel import Stream
from pyro_mcp.protocol.digest import sha256
from pyro_mcp.protocol.entries import MAX_DEPTH, MAX_SIZE
from pyro_mcp.protocol.frames import encode_json

MAX_LIST = 50_000
MAX_ANSWER = 900_000
"""Bytes of JSON in one answer; the channel takes a mebibyte."""
HASH_LIMIT = 64 * 1024 * 1024
"""A larger file that is only read in part is not digested."""
SNIFF = 8192
PIECE = 256 * 1024
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class Files:
    """The verbs `file_list`, `file_read` and `file_write` on one tree. `lock` guards expectations against writers."""

    def __init__(self, tree: Tree, lock: threading.Lock) -> None:
        self._tree = tree
        self._lock = lock

    def list(self, stream: Stream) -> dict[str, Any]:
        """path, recursive, pattern?, limit → path, entries[{path,artifact_type,size_bytes,link_target}], truncated."""
        parts = relative("path", stream.params.get("path", "."))
        pattern = stream.params.get("pattern")
        glob = None if pattern is None else Glob(read.text(stream.params, "pattern", limit=1024))
        limit = read.integer({"limit": 1000, **stream.params}, "limit", least=1, most=MAX_LIST)
        flow = Flow(stream)
        try:
            with self._tree.existing(parts) as place:
                found = _Found(limit)
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
        """path, max_bytes → the first bytes as DATA 1; path, size_bytes, truncated, sha256 (or null), binary, mode."""
        parts = relative("path", stream.params.get("path"))
        most = read.integer({"max_bytes": 65536, **stream.params}, "max_bytes", least=0, most=MAX_SIZE)
        flow = Flow(stream)
        try:
            with self._tree.existing(parts) as place:
                require_file(place, "read")
                fd = place.open(os.O_RDONLY)
                try:
                    return {"path": os.fsdecode(place.path), **_send_file(fd, most, flow)}
                finally:
                    os.close(fd)
        except OSError as error:
            raise failure("read", absolute(parts), error) from None
        finally:
            flow.close()

    def write(self, stream: Stream) -> dict[str, Any]:
        """path, size, mode?, expected_sha256? (null: must not exist) ← DATA 0 → path, size_bytes, sha256, created."""
        parts = relative("path", stream.params.get("path"))
        size = read.integer(stream.params, "size", least=0, most=MAX_SIZE)
        mode = optional_mode(stream.params)
        expect = expectation(stream.params)
        flow = Flow(stream)
        try:
            with Stage(self._tree) as stage:
                digest = sha256()
                stage.write(b"new", digesting(flow.take(size), digest))
                flow.require_end()
                with self._lock, self._tree.find(parts, create=True) as place:
                    created = not place.exists
                    if not created:
                        require_file(place, "write")
                    verify(place, expect)
                    adopt_mode(stage, b"new", place, mode)
                    flow.check()
                    os.rename(b"new", place.name, src_dir_fd=stage.fd, dst_dir_fd=place.parent)
                    if self._tree.durable:
                        fsync_directory(place.parent)
                    path = os.fsdecode(place.path)
            return {"path": path, "size_bytes": size, "sha256": digest.hexdigest(), "created": created}
        except OSError as error:
            raise failure("write", absolute(parts), error) from None
        finally:
            flow.close()


class _Found:
    """Entries up to a count, and up to what one answer may weigh."""

    def __init__(self, limit: int) -> None:
        self.entries: list[dict[str, Any]] = []
        self.truncated = False
        self._limit = limit
        self._weight = 0

    def add(self, path: list[bytes], fd: int) -> bool:
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


def artifact_type(mode: int) -> str:
    """`file`, `directory`, `symlink` or `other`."""
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink"}
    return kinds.get(stat.S_IFMT(mode), "other")


def walk(place: Place, *, recursive: bool, check: Callable[[], None]) -> Iterator[tuple[list[bytes], int]]:
    """What is in the directory `place`, sorted, parents first: canonical path and an O_PATH descriptor valid until
    the next step. Links are shown, not followed; what vanishes meanwhile or cannot be entered is left out."""
    levels = [(os.dup(place.fd), iter(listing(place.fd)))]
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
                if recursive and len(levels) < MAX_DEPTH and stat.S_ISDIR(os.fstat(fd).st_mode):
                    levels.append((os.dup(fd), iter(_listing_or_nothing(fd))))
                    path = [*path, name]
            finally:
                os.close(fd)
    finally:
        for fd, _ in levels:
            os.close(fd)


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


def _send_file(fd: int, most: int, flow: Flow) -> dict[str, Any]:
    """Send the first `most` bytes of `fd`; digest the rest too when that is cheap enough."""
    status = os.fstat(fd)
    digest = sha256()
    decoder = codecs.getincrementaldecoder("utf-8")()
    sent, seen, binary = 0, 0, False
    while True:
        piece = os.read(fd, PIECE)
        if not piece:
            break
        if seen >= most and max(status.st_size, seen + len(piece)) > HASH_LIMIT:
            size = max(status.st_size, seen + len(piece))
            return _read_result(size, None, binary, sent, status)
        digest.update(piece)
        shown = piece[: max(0, most - seen)]
        binary = binary or b"\0" in shown or not _decodes(decoder, shown)
        flow.send(shown)
        sent += len(shown)
        seen += len(piece)
        flow.check()
    if sent == seen:
        binary = binary or not _decodes(decoder, b"", final=True)
    return _read_result(seen, digest.hexdigest(), binary, sent, status)


def _read_result(size: int, digest: str | None, binary: bool, sent: int, status: os.stat_result) -> dict[str, Any]:
    return {
        "size_bytes": size,
        "truncated": sent < size,
        "sha256": digest,
        "binary": binary,
        "mode": stat.S_IMODE(status.st_mode),
    }


def _decodes(decoder: codecs.IncrementalDecoder, data: bytes, *, final: bool = False) -> bool:
    try:
        decoder.decode(data, final)
    except UnicodeDecodeError:
        return False
    return True


# -- shared with tree_apply


def require_file(place: Place, verb: str) -> None:
    """Raise unless `place` is a regular file."""
    if not place.is_file():
        kind = artifact_type(place.stat().st_mode)
        named = {"directory": "a directory", "symlink": "a symbolic link"}.get(kind, "not a regular file")
        raise invalid(f"cannot {verb} {show(place.path)}: it is {named}")


def optional_mode(params: dict[str, Any]) -> int | None:
    """Permission bits without setuid, or None when absent."""
    if params.get("mode") is None:
        return None
    return read.integer(params, "mode", least=0, most=0o777)


ANY = object()


def expectation(params: dict[str, Any]) -> object:
    """`ANY`, None for "must not exist", or the digest that the present content must have."""
    if "expected_sha256" not in params:
        return ANY
    value = params["expected_sha256"]
    if value is None:
        return None
    if not isinstance(value, str) or len(value) != 64 or set(value) - set("0123456789abcdef"):
        raise invalid("expected_sha256 must be 64 lower-case hex digits, or null for a file that must not exist")
    return value


def verify(place: Place, expected: object) -> None:
    """Raise `conflict` unless what is there is what the caller last saw."""
    if expected is ANY:
        return
    if expected is None:
        if place.exists:
            raise AgentError("conflict", f"cannot write {show(place.path)}: it exists already", "Read it first.")
        return
    hint = "Someone else changed it. Read it again, then decide."
    if not place.exists:
        raise AgentError("conflict", f"cannot write {show(place.path)}: it no longer exists", hint)
    if digest_of(place) != expected:
        raise AgentError("conflict", f"cannot write {show(place.path)}: its content is not the expected", hint)


def digest_of(place: Place) -> str:
    """The SHA-256 of a regular file."""
    require_file(place, "digest")
    fd = place.open(os.O_RDONLY)
    try:
        digest = sha256()
        while piece := os.read(fd, PIECE):
            digest.update(piece)
        return digest.hexdigest()
    finally:
        os.close(fd)


def digesting(pieces: Iterator[bytes], digest: Any) -> Iterator[bytes]:
    """`pieces`, each seen by `digest` on its way."""
    for piece in pieces:
        digest.update(piece)
        yield piece


def adopt_mode(stage: Stage, name: bytes, place: Place, mode: int | None) -> None:
    """Give the staged file `mode`; without one, the mode and owner of the file it replaces, or 0644."""
    fd = os.open(name, _LOOK, dir_fd=stage.fd)
    try:
        own = f"/proc/self/fd/{fd}"
        if place.exists:
            status = place.stat()
            if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()) and os.geteuid() == 0:
                os.chown(own, status.st_uid, status.st_gid)
            os.chmod(own, status.st_mode & 0o777 if mode is None else mode)
        else:
            os.chmod(own, 0o644 if mode is None else mode)
    finally:
        os.close(fd)


def fsync_directory(fd: int) -> None:
    """Make the directory's names durable."""
    real = reopen(fd, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(real)
    finally:
        os.close(real)
