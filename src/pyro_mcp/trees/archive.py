"""A tar archive as a sequence of entries, under our own rules.

All headers are read before anything is given out, so a refusal comes before anything is copied, and what the archive
says last is known first. Refused as a whole: names that are absolute, hold `..` or NUL; members below a link or a file;
hard links to what is not before them in the archive; damage; more than the limits. Left out and listed: devices, named
pipes and hard links to them, labels, pieces of other volumes. Altered and listed: names that come more than once,
setuid and setgid files, hard links to symbolic links. Listed: that the mark of the end is missing, or that something
stands behind it. Symbolic links are stored whatever they point at, and never followed.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from pyro_mcp.errors import InvalidArgument, NotFound
from pyro_mcp.model.sync import Skipped
from pyro_mcp.protocol.entries import MAX_EXTENTS, Entry, EntryError, Piece, check
from pyro_mcp.system.atomic import disk_errors
from pyro_mcp.trees.archive_plan import ArchivePlan, PlanNode
from pyro_mcp.trees.limits import Limits, require_wanted
from pyro_mcp.trees.tar import ByteStream, Damaged, Extents, Member, read_members, show
from pyro_mcp.trees.unpacked import CHUNK, unpacked

BEHIND = "what stands behind the end of the archive was ignored"


class ArchiveSource:
    """The members of the archive at `path`. Iterate once; then `skipped` is complete.

    Raises `InvalidArgument` naming the member, `NotFound`, `PermissionDenied` and `Cancelled`; what was taken until
    then must not be kept.
    """

    mode = "archive"

    def __init__(self, path: Path, *, limits: Limits | None = None, cancelled: threading.Event | None = None) -> None:
        self.skipped: list[Skipped] = []
        self._path = path
        self._limits = limits or Limits()
        self._cancelled = cancelled

    def __iter__(self) -> Iterator[Entry | Piece]:
        with disk_errors(f"read {self._path}"):
            try:
                file = self._path.open("rb", buffering=0)
            except FileNotFoundError:
                hint = "Give a directory or an archive of this host, as a path that is there"
                raise NotFound(f"cannot read {self._path}: no such file", hint=hint) from None
            with file:
                try:
                    yield from self._entries(file)
                except (Damaged, EntryError) as error:
                    raise self._error(str(error)) from None

    def _error(self, cause: str) -> InvalidArgument:
        hint = (
            "Nothing of it was imported. Give a directory, or make the archive anew, with relative names;"
            " <<write_workspace_file>> takes a single file"
        )
        return InvalidArgument(f"cannot import {self._path}: {cause}", hint=hint)

    def _require_wanted(self) -> None:
        require_wanted(f"reading {self._path}", self._cancelled)

    def _open(self, file: IO[bytes]) -> ByteStream:
        limits = self._limits
        return unpacked(file, ratio=limits.ratio, free_bytes=limits.free_bytes, still_needed=self._require_wanted)

    def _entries(self, file: IO[bytes]) -> Iterator[Entry | Piece]:
        seen = os.fstat(file.fileno())
        plan = self._plan(file)
        self.skipped += plan.skipped
        yield from plan.directories()
        stream = self._open(file)
        for node, paths in plan.others():
            self._require_wanted()
            yield from _given(stream, node, paths)
        after = os.fstat(file.fileno())
        if (seen.st_size, seen.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise Damaged("it changed while it was read")

    def _plan(self, file: IO[bytes]) -> ArchivePlan:
        stream = self._open(file)
        plan = ArchivePlan(self._limits, f"import {self._path}")
        unusual: list[str] = []
        for member in read_members(stream, unusual.append):
            self._require_wanted()
            plan.add(member)
        self.skipped += [Skipped(path=".", reason=reason) for reason in unusual]
        trailing = False
        while data := stream.read(CHUNK):  # gzip's checksum stands at its very end
            self._require_wanted()
            trailing = trailing or any(data)
        if trailing or stream.behind:
            self.skipped.append(Skipped(path=".", reason=BEHIND))
        return plan


def _given(stream: ByteStream, node: PlanNode, paths: list[str]) -> Iterator[Entry | Piece]:
    """A file or link with all its names, and its bytes from the stream, which has not passed them."""
    first, *others = paths
    if node.kind == "symlink":
        for path in paths:
            yield Entry(path, "symlink", 0o777, node.mtime_ns, target=node.member.target)
        return
    member = node.member
    extents = _joined(member.extents) if member.extents is not None else None
    yield check(Entry(first, "file", node.mode, node.mtime_ns, member.size, extents=extents, xattrs=node.xattrs))
    if member.stored:
        stream.skip(member.offset - stream.position)
        yield from _data(stream, member, extents)
    for path in others:
        yield Entry(path, "hardlink", target=first)


def _joined(extents: Extents) -> Extents:
    """As many stretches as travel: neighbours become one, with the hole between them as zeros."""
    together = -(-len(extents) // MAX_EXTENTS) or 1
    groups = [extents[at : at + together] for at in range(0, len(extents), together)]
    return tuple((group[0][0], group[-1][0] + group[-1][1] - group[0][0]) for group in groups)


def _data(stream: ByteStream, member: Member, declared: Extents | None) -> Iterator[Piece]:
    parts = ((0, member.size),) if member.extents is None else member.extents
    ends = {begin + length for begin, length in declared or ()}
    at = parts[0][0] if parts else 0
    for begin, length in parts:
        if at in ends:
            at = begin
        while at < begin:
            yield Piece(at, bytes(min(CHUNK, begin - at)))
            at += min(CHUNK, begin - at)
        while at < begin + length:
            data = stream.read(min(CHUNK, begin + length - at))
            if not data:
                raise Damaged(f"it ends within {show(member.name)}")
            yield Piece(at, data)
            at += len(data)
