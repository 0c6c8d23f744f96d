"""reading: a file's bytes from some place on, and what they are: text or not, all or not, which digest."""

from __future__ import annotations

import codecs
import os
import stat
from collections.abc import Callable
from typing import Any

from pyro_mcp.guest.flow import Flow
from pyro_mcp.guest.tree.direct import LARGE, Reader
from pyro_mcp.guest.tree.paths import ResolvedPath, artifact_type
from pyro_mcp.protocol.digest import sha256
from pyro_mcp.protocol.exchange import buffer

HASH_LIMIT = 64 * 1024 * 1024
"""A larger file that is only read in part is not digested."""
PIECE = 256 * 1024
MAX_REST = 3
"""Bytes of a UTF-8 character after its first."""


def same_content(one: int, two: int, check: Callable[[], None]) -> bool:
    """Whether two open files hold the same from where they stand; `check` may end a long comparison."""
    while True:
        check()
        left, right = os.read(one, PIECE), os.read(two, PIECE)
        if left != right:
            return False
        if not left:
            return True


def send_link(place: ResolvedPath, offset: int, max_: int, flow: Flow) -> dict[str, Any]:
    """Send the text of a link as if it were a file's content."""
    target = os.readlink(b"", dir_fd=place.fd)
    shown = target[offset : offset + max_]
    flow.send(shown)
    left = max(0, len(target) - offset - len(shown))
    digest = sha256()
    digest.update(target)
    return _read_result(len(target), digest.hexdigest(), _binary(target), left, place.stat())


def send_file(fd: int, offset: int, max_: int, flow: Flow) -> dict[str, Any]:
    """Send `max_` bytes of `fd` from `offset` on; digest the rest too when that is cheap enough."""
    status = os.fstat(fd)
    end = offset + max_
    if status.st_size >= LARGE and offset == 0 and end >= status.st_size:
        return _send_all(fd, max_, flow, status)
    if status.st_size > max(HASH_LIMIT, 0 if offset else end):
        return _send_part(fd, offset, max_, flow, status)
    digest = sha256()
    text = _Text(offset)
    seen = 0
    while piece := os.read(fd, PIECE):
        if seen >= end and seen + len(piece) > HASH_LIMIT:
            # It grows while it is read.
            return _read_result(seen + len(piece), None, text.binary, seen + len(piece) - end, status)
        digest.update(piece)
        shown = piece[max(0, offset - seen) : max(0, end - seen)]
        text.add(shown)
        flow.send(shown)
        seen += len(piece)
        flow.check()
    if seen <= end:
        text.end()
    return _read_result(seen, digest.hexdigest(), text.binary, max(0, seen - end), status)


def _send_all(fd: int, max_: int, flow: Flow, status: os.stat_result) -> dict[str, Any]:
    """All of a large file. Who gets it can tell its digest, and whether it is text, fifty times faster than we can."""
    reader, seen = Reader(fd, memoryview(buffer()), large=True), 0
    while piece := reader.read(max_ - seen, seen) if seen < max_ else None:
        flow.send(piece)
        seen += len(piece)
        flow.check()
    left = max(0, os.fstat(fd).st_size - seen)
    return {**_read_result(seen + left, None, False, left, status), "unseen": True}


def _send_part(fd: int, offset: int, max_: int, flow: Flow, status: os.stat_result) -> dict[str, Any]:
    """A part of a large file, without reading the rest."""
    os.lseek(fd, offset, os.SEEK_SET)
    text = _Text(offset)
    sent = 0
    while sent < max_ and (piece := os.read(fd, min(PIECE, max_ - sent))):
        text.add(piece)
        flow.send(piece)
        sent += len(piece)
        flow.check()
    size = max(status.st_size, offset + sent) if sent else status.st_size
    left = max(0, size - offset - sent)
    if not left:
        text.end()
    return _read_result(size, None, text.binary, left, status)


def no_content(status: os.stat_result) -> dict[str, Any]:
    """Only what it is."""
    return _read_result(0, None, False, 0, status)


class _Text:
    """Whether what is shown of a file is text. A part may begin within a character."""

    def __init__(self, offset: int) -> None:
        self.binary = False
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._rest = MAX_REST if offset else 0
        """How many bytes of a character that began before may still come."""

    def add(self, data: bytes) -> None:
        while self._rest and data and 0x80 <= data[0] < 0xC0:
            data, self._rest = data[1:], self._rest - 1
        if data:
            self._rest = 0
        self.binary = self.binary or b"\0" in data or not self._decodes(data)

    def end(self) -> None:
        """Nothing follows, so no character may be open."""
        self.binary = self.binary or not self._decodes(b"", final=True)

    def _decodes(self, data: bytes, *, final: bool = False) -> bool:
        try:
            self._decoder.decode(data, final)
        except UnicodeDecodeError:
            return False
        return True


def _binary(content: bytes) -> bool:
    text = _Text(0)
    text.add(content)
    text.end()
    return text.binary


def _read_result(size: int, digest: str | None, binary: bool, left: int, status: os.stat_result) -> dict[str, Any]:
    return {
        "artifact_type": artifact_type(status.st_mode),
        "size_bytes": size,
        "truncated": left > 0,
        "sha256": digest,
        "binary": binary,
        "mode": stat.S_IMODE(status.st_mode),
    }
