"""The `file` verbs: one request to the agent each, and its answer as a result."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec

from pyro_mcp.engine.session import Session
from pyro_mcp.errors import InvalidArgument, ProtocolError
from pyro_mcp.model.file import FileContent, FileEntry, FileList, FileMatch, FileSearch, FileWritten
from pyro_mcp.operations.call import Call

ABSENT = "absent"
"""The expectation that no file is there yet."""

MAX_REST = 3
"""Bytes of a UTF-8 character after its first."""

Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$", max_length=64)]
Path = Annotated[str, msgspec.Meta(max_length=8192)]


@dataclass(frozen=True)
class _Listed:
    path: Path
    entries: list[FileEntry]
    truncated: bool


@dataclass(frozen=True)
class ReadAnswer:
    """What the agent says of a file, or of a link as itself, that it has sent."""

    path: Path
    size_bytes: Count
    truncated: bool
    binary: bool
    sha256: Sha256 | None = None
    unseen: bool = False
    artifact_type: Literal["file", "directory", "symlink"] = "file"
    mode: Annotated[int, msgspec.Meta(ge=0, le=0o7777)] = 0o644


@dataclass(frozen=True)
class Wrote:
    path: Path
    size_bytes: Count
    created: bool


@dataclass(frozen=True)
class _Searched:
    matches: list[FileMatch]
    truncated: bool
    timed_out: bool = False
    files_searched: Count = 0
    files_skipped: Count = 0


@dataclass
class Collected:
    """Output that may not exceed what was asked for."""

    limit: int
    data: bytearray = field(default_factory=bytearray)

    def add(self, piece: bytes) -> None:
        self.data += piece
        if len(self.data) > self.limit:
            raise ProtocolError("cannot read the file: the agent sent more than was asked for")


def list_files(
    call: Call[Any], session: Session, path: str, *, recursive: bool, pattern: str | None, limit: int, offset: int = 0
) -> FileList:
    """What is below `path`. A pattern looks at all levels, as `**` in it would mean little otherwise."""
    params: dict[str, Any] = {"path": path, "recursive": recursive or pattern is not None, "limit": limit}
    if pattern is not None:
        params["pattern"] = pattern
    if offset:
        params["offset"] = offset
    found = session.agent.request(call, "file_list", params, _Listed)
    return FileList(
        **session.stamp,
        path=found.path,
        recursive=params["recursive"],
        pattern=pattern,
        count=len(found.entries),
        offset=offset,
        next_offset=_next(offset, found.entries, more=found.truncated),
        truncated=found.truncated,
        entries=found.entries,
    )


def read_file(call: Call[Any], session: Session, path: str, *, max_bytes: int, offset: int = 0) -> FileContent:
    """Up to `max_bytes` of the file from `offset` on as text; a character that a cut would halve is left out."""
    held = Collected(max_bytes)
    params = {"path": path, "max_bytes": max_bytes, "offset": offset}
    said = session.agent.request(call, "file_read", params, ReadAnswer, on_data=held.add)
    data, content, digest = bytes(held.data), "", said.sha256
    binary = said.binary or (said.unseen and b"\0" in data)
    if said.unseen and not said.truncated:
        digest = hashlib.sha256(data).hexdigest()
    if not binary:
        begin = _begin(data) if offset else 0
        try:
            content = _text(data[begin:], said.truncated)
        except UnicodeDecodeError:
            binary = True
        else:
            offset += begin
    end = offset + len(content.encode())
    return FileContent(
        **session.stamp,
        path=said.path,
        size_bytes=said.size_bytes,
        max_bytes=max_bytes,
        truncated=said.truncated,
        binary=binary,
        sha256=digest,
        offset=offset,
        next_offset=end if said.truncated and not binary else None,
        content=content,
    )


def write_file(call: Call[Any], session: Session, path: str, *, text: str, expected_sha256: str | None) -> FileWritten:
    """Replace or make the file as a whole. Raises `Conflict` when it is not as expected."""
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError:
        hint = "Leave out lone surrogates; <<push_workspace_sync>> takes a file of any content"
        raise InvalidArgument(f"cannot write {path}: the text is not valid Unicode", hint=hint) from None
    params: dict[str, Any] = {"path": path, "size": len(data)}
    if expected_sha256 is not None:
        params["expected_sha256"] = None if expected_sha256 == ABSENT else expected_sha256
    said = session.agent.request(call, "file_write", params, Wrote, send=data)
    session.note("file_write", {"path": said.path, "bytes_written": len(data), "created": said.created})
    return FileWritten(
        **session.stamp,
        path=said.path,
        size_bytes=said.size_bytes,
        bytes_written=len(data),
        created=said.created,
        sha256=hashlib.sha256(data).hexdigest(),
    )


def search_files(
    call: Call[Any],
    session: Session,
    pattern: str,
    *,
    path: str,
    glob: str | None,
    ignore_case: bool,
    limit: int,
    offset: int = 0,
) -> FileSearch:
    """The lines that match the regular expression `pattern`, in files whose names match `glob`."""
    params: dict[str, Any] = {"pattern": pattern, "path": path, "limit": limit, "ignore_case": ignore_case}
    if glob is not None:
        params["glob"] = glob
    if offset:
        params["offset"] = offset
    said = session.agent.request(call, "file_search", params, _Searched)
    return FileSearch(
        **session.stamp,
        path=path,
        pattern=pattern,
        glob=glob,
        count=len(said.matches),
        offset=offset,
        # Whoever asks again after the time was up waits for the same end.
        next_offset=_next(offset, said.matches, more=said.truncated and not said.timed_out),
        truncated=said.truncated,
        timed_out=said.timed_out,
        files_searched=said.files_searched,
        files_skipped=said.files_skipped,
        matches=said.matches,
    )


def _next(offset: int, shown: Sequence[Any], *, more: bool) -> int | None:
    return offset + len(shown) if more and shown else None


def _begin(data: bytes) -> int:
    """Where the first whole character begins in what may begin within one."""
    return next((at for at, byte in enumerate(data[:MAX_REST]) if not 0x80 <= byte < 0xC0), min(len(data), MAX_REST))


def _text(data: bytes, cut: bool) -> str:
    """`data` decoded; when it was `cut`, without the beginning of a character at its end."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        if cut and error.start >= len(data) - 3 and error.reason == "unexpected end of data":
            return data[: error.start].decode("utf-8")
        raise
