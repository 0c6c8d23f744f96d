"""Files by their lines: as they stand, for programs and people, and numbered and short, for a model's eyes.

The guest passes over what stands before the lines, so a part of a large file costs the host that part.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pyro_mcp.engine.files.files import Collected, Count, Path, Sha256, read_file
from pyro_mcp.engine.secrets.redact import MASK, Masks
from pyro_mcp.engine.session import Session
from pyro_mcp.errors import Cancelled, InvalidArgument, MachineFailed, ProtocolError, PyroError
from pyro_mcp.model.count import count_of
from pyro_mcp.model.file import FileContent, FileProblem, FileView, FileViews
from pyro_mcp.operations.call import Call

ALL = 1 << 53
"""More lines, or bytes of a line, than there are."""
VIEW_CHARS = 8_000
"""Characters of JSON that the texts of one answer to a model take."""
FILE_CHARS = 300
"""What the rest of a file's answer takes."""
LINE_BYTES = 2_000
"""How much of a line a model sees."""


@dataclass(frozen=True)
class _Lines:
    """What the agent says of the lines that it has sent."""

    path: Path
    size_bytes: Count
    truncated: bool
    binary: bool
    offset: Count
    next_offset: Count
    next_line: Count
    cut: list[tuple[Count, Count]]
    sha256: Sha256 | None = None
    line_count: Count | None = None


def read(
    call: Call[Any], session: Session, path: str, *, max_bytes: int, offset: int, first: int | None, count: int | None
) -> FileContent:
    """Up to `max_bytes` from the byte `offset` on, or up to `count` lines from line `first` on."""
    if first is None and count is None:
        return read_file(call, session, path, max_bytes=max_bytes, offset=offset)
    if offset:
        hint = "Give <<read_workspace_file.offset>>, or <<read_workspace_file.offset_lines>>."
        raise InvalidArgument(f"cannot read {path}: from a byte and from a line on exclude each other", hint=hint)
    return _read_lines(call, session, path, max_bytes=max_bytes, first=1 if first is None else first, count=count)


def _read_lines(
    call: Call[Any], session: Session, path: str, *, max_bytes: int, first: int, count: int | None
) -> FileContent:
    """The lines as they stand; a character that a cut would halve is left out."""
    said, data = _ask(call, session, path, first=first, count=count or ALL, max_bytes=max_bytes, max_line=ALL)
    content = None if said.binary else _decoded(data, cut=said.truncated)
    end = said.offset + len((content or "").encode())
    more = said.truncated and content is not None
    return FileContent(
        **session.stamp,
        path=said.path,
        size_bytes=said.size_bytes,
        max_bytes=max_bytes,
        truncated=said.truncated,
        binary=content is None,
        sha256=said.sha256,
        offset=said.offset,
        next_offset=end if more else None,
        first_line=max(1, first),
        next_line=said.next_line if more and (content or "").endswith("\n") else None,
        line_count=said.line_count,
        content=content or "",
    )


def view_files(
    call: Call[Any], session: Session, *, path: str | None, paths: Sequence[str] | None, offset: int, limit: int
) -> FileViews:
    """One file, or several with what is wrong with some of them. Raises what is wrong with the one."""
    if path is not None and paths is None:
        view = _View(call, session, offset, limit).of(path, VIEW_CHARS)
        return FileViews(**session.stamp, **dict(view.items()))
    wanted = [*([path] if path is not None else []), *(paths or [])]
    if not wanted:
        raise InvalidArgument("cannot read: no file is named", hint="Give a path, or several as paths.")
    views: list[FileView] = []
    room = VIEW_CHARS - FILE_CHARS * (len(wanted) - 1)
    for number, one in enumerate(wanted):
        try:
            view = _View(call, session, offset, limit).of(one, room // (len(wanted) - number))
        except (Cancelled, MachineFailed, ProtocolError):
            raise
        except PyroError as error:
            problem = FileProblem(code=error.code, message=error.message, hint=error.hint)
            view = FileView(path=one, error=problem)
        room -= _size(view.content)
        views.append(view)
    return FileViews(**session.stamp, files=views)


class _View:
    """A file's lines as a model sees them: numbered, long ones cut, all within a number of characters."""

    def __init__(self, call: Call[Any], session: Session, first: int, count: int) -> None:
        self._call = call
        self._session = session
        self._first = max(1, first)
        self._count = count

    def of(self, path: str, room: int) -> FileView:
        said, data = _ask(
            self._call,
            self._session,
            path,
            first=self._first,
            count=self._count,
            max_bytes=4 * room,
            max_line=min(LINE_BYTES, room),
        )
        lines = _masked(self._session.masks, data).split(b"\n")
        open_end = bool(lines[-1]) and not (said.truncated and len(lines) > 1)
        if not open_end:
            # Nothing, or a line that goes on.
            lines.pop()
        ended = lines[:-1] if open_end else lines
        windows = bool(ended) and all(line.endswith(b"\r") for line in ended)
        texts = self._texts([line.removesuffix(b"\r") for line in lines] if windows else lines, dict(said.cut))
        binary = said.binary or texts is None
        shown, halved = ([], False) if texts is None or binary else self._numbered(texts, room)
        cut_lines = sum(number < self._first + len(shown) for number, _ in said.cut) or int(halved)
        after = self._first + len(shown)
        more = not binary and (said.truncated or len(shown) < len(lines))
        return FileView(
            path=said.path,
            size_bytes=said.size_bytes,
            line_count=said.line_count,
            offset=self._first,
            next_offset=after if more else None,
            truncated=more,
            binary=binary,
            cut_lines=cut_lines,
            line_ends="crlf" if windows and not binary else None,
            sha256=said.sha256,
            content="\n".join(shown),
        )

    def _texts(self, lines: list[bytes], cut: dict[int, int]) -> list[str] | None:
        """The lines with a note where one was cut; None when they are not UTF-8."""
        texts = []
        for number, line in enumerate(lines, self._first):
            text = _decoded(line, cut=number in cut)
            if text is None:
                return None
            texts.append(text + (_note(number, text, f"{count_of(cut[number], 'byte')} ") if number in cut else ""))
        return texts

    def _numbered(self, texts: list[str], room: int) -> tuple[list[str], bool]:
        """As many as there is room for, but always one, and whether that is cut for it."""
        width = len(str(self._first + len(texts) - 1))
        shown: list[str] = []
        left, halved = room, False
        for number, text in enumerate(texts, self._first):
            line, begin = f"{number:>{width}}→{text}", text
            while not shown and _size(line) > room and begin:
                # JSON writes some characters as six.
                begin, halved = begin[: len(begin) // 2], True
                line = f"{number:>{width}}→{begin}{_note(number, begin, '')}"
            left -= _size(line)
            if left < 0 and shown:
                break
            shown.append(line)
        return shown, halved


def _note(number: int, shown: str, left: str) -> str:
    """What stands in a line of which only `shown` is shown, and how to see what follows."""
    how = f"`sed -n {number}p FILE | cut -b {len(shown.encode()) + 1}-` shows on"
    return f" [... {left}of this line left out; {how} ...]" if left else f" [... cut here; {how} ...]"


def _ask(
    call: Call[Any], session: Session, path: str, *, first: int, count: int, max_bytes: int, max_line: int
) -> tuple[_Lines, bytes]:
    """Raises `InvalidArgument` when the file ends before `first`."""
    held = Collected(max_bytes)
    params = {"path": path, "first": max(1, first), "count": count, "max_bytes": max_bytes, "max_line": max_line}
    said = session.agent.request(call, "file_lines", params, _Lines, on_data=held.add)
    if said.line_count is not None and first > max(1, said.line_count):
        count_there = count_of(said.line_count, "line")
        raise InvalidArgument(f"cannot read {path} from line {first}: it has {count_there}", hint="Begin earlier.")
    return said, bytes(held.data)


def _decoded(data: bytes, *, cut: bool) -> str | None:
    """`data` as text, when it was `cut` without the beginning of a character at its end; None when it is no UTF-8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        if cut and error.start >= len(data) - 3 and error.reason == "unexpected end of data":
            return data[: error.start].decode("utf-8")
        return None


def _masked(masks: Masks, data: bytes) -> bytes:
    """`data` without secrets, and each line where it was: once there are numbers in it, nobody finds them any more."""
    out, at = [], 0
    for start, stop in masks.found(data):
        out += [data[at:start], MASK, b"\n" * data.count(b"\n", start, stop)]
        at = stop
    return b"".join([*out, data[at:]])


def _size(text: str) -> int:
    return len(json.dumps(text, ensure_ascii=False))
