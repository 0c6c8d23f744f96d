"""The verb `diff`: the agent sends what changed with both contents, the host makes a unified diff of it.

The work follows the changes, not the workspace; what is too much for one answer is counted and said to be missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal

import msgspec

from pyro_mcp.engine.agent import checked
from pyro_mcp.engine.files.files import Count
from pyro_mcp.engine.session import Session
from pyro_mcp.errors import InvalidArgument, ProtocolError
from pyro_mcp.model.diff import DiffEntry, DiffResult
from pyro_mcp.operations.call import Call
from pyro_mcp.protocol.entries import EntryError, safe_path
from pyro_mcp.protocol.frames import encode_json
from pyro_mcp.trees.diff import FileDiff, Status, Version, diff_file, joined, totals

TEXT_LIMIT = 1024 * 1024
"""Bytes of a file that is still compared line by line."""
TOTAL_LIMIT = 16 * 1024 * 1024
MAX_CHANGES = 20_000
ANSWER_BYTES = 24 * 1024 * 1024
"""JSON bytes of one answer to a client."""
_ENTRY_BYTES = 200
_WITHIN = "//"
"""Between a path, which never holds it, and a place in its patch."""
MIN_PIECE = 150
"""So much of a patch is shown whatever else there is."""


@dataclass(frozen=True)
class _VersionFields:
    artifact_type: Literal["file", "directory", "symlink", "other"]
    mode: Annotated[int, msgspec.Meta(ge=0, le=0o7777)]
    size_bytes: Count = 0
    target: Annotated[str, msgspec.Meta(max_length=8192)] | None = None


@dataclass(frozen=True)
class _Change:
    path: str
    old: _VersionFields | None
    new: _VersionFields | None
    text: tuple[Count, Count] | None = None
    file_count: Count | None = None


@dataclass(frozen=True)
class _Diffed:
    truncated: bool
    ignored_count: Count = 0


def diff(
    call: Call[Any],
    session: Session,
    *,
    paths: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    stat: bool = False,
    ignored: bool = False,
    cursor: str | None = None,
    max_chars: int = ANSWER_BYTES,
) -> DiffResult:
    """The live /workspace against the baseline, sorted by path: those after `cursor`, as many as `max_chars` hold; a
    patch that is longer comes in pieces."""
    call.progress("comparing with the baseline", None)
    gathered = _Gathered()
    params = {
        "text_limit": TEXT_LIMIT,
        "total_limit": TOTAL_LIMIT,
        "limit": MAX_CHANGES,
        "paths": list(paths or ()),
        "exclude": list(exclude or ()),
        "ignored": ignored,
    }
    said = session.agent.request(call, "changes", params, _Diffed, on_data=gathered.on_data, on_event=gathered.on_event)
    found = sorted(gathered.finish(), key=lambda one: one.path)
    after = _after(found, cursor)
    if stat:
        after = [replace(one, text_patch=None) for one in after]
    page, rest = _page(after, max_chars)
    diffs = _fitting(page)
    more = len(diffs) < len(after) or rest > 0
    kept = {} if stat else {one.path: one for one in diffs}
    return DiffResult(
        **session.stamp,
        changed=bool(found),
        summary=totals(kept.get(one.path, one) for one in found),
        truncated=said.truncated or more,
        ignored_count=said.ignored_count,
        next_cursor=_cursor(diffs[-1], found, rest) if more and diffs else None,
        entries=[DiffEntry(**asdict(one), patch_chars_left=rest if one is page[-1] else 0) for one in diffs],
        patch=joined(diffs),
    )


class _Gathered:
    """Changes as they come in: an event, then the bytes that it announced."""

    def __init__(self) -> None:
        self._diffs: list[FileDiff] = []
        self._open: _Change | None = None
        self._data = bytearray()
        self._text_left = TOTAL_LIMIT

    def on_event(self, event: dict[str, Any]) -> None:
        if self._open is not None:
            raise _broken("a change before the last one's text was complete")
        change = checked("changes", event, _Change)
        try:
            safe_path(change.path)
        except EntryError as error:
            raise _broken(str(error)) from None
        if len(self._diffs) >= MAX_CHANGES or change.old is change.new is None:
            raise _broken("too many changes, or one of nothing")
        if change.text is not None:
            self._text_left -= sum(change.text)
            if max(change.text) > TEXT_LIMIT or self._text_left < 0:
                raise _broken("more text than was asked for")
        self._open = change
        self._close_if_complete()

    def on_data(self, data: bytes) -> None:
        if self._open is None:
            raise _broken("data without a change")
        self._data += data
        self._close_if_complete()

    def finish(self) -> list[FileDiff]:
        if self._open is not None:
            raise _broken("it ended within a file")
        return self._diffs

    def _close_if_complete(self) -> None:
        change = self._open
        assert change is not None
        sizes = change.text or (0, 0)
        if len(self._data) > sum(sizes):
            raise _broken("more text than it announced")
        if len(self._data) == sum(sizes):
            data = bytes(self._data)
            texts = (None, None) if change.text is None else (data[: sizes[0]], data[sizes[0] :])
            self._diffs.append(_compared(change, texts, self._text_left))
            self._open = None
            self._data.clear()


def _compared(change: _Change, texts: tuple[bytes | None, bytes | None], room: int) -> FileDiff:
    """The change as text; `room` is how many bytes of text the agent could still have sent."""
    parts = change.path.lower().split("/")
    if change.file_count is not None or ".git" in parts:
        return _internals(change)
    old, new = _version(change.old, texts[0]), _version(change.new, texts[1])
    if old is None and new is None:
        raise _broken("a change of what is no file, directory or link")
    found = diff_file(change.path, old, new)
    if found.reason == "too large":
        sizes = [side.size_bytes for side in (change.old, change.new) if side is not None]
        return found if max(sizes) > TEXT_LIMIT or sum(sizes) > room else replace(found, reason="binary")
    return found


def _internals(change: _Change) -> FileDiff:
    """What git keeps for itself: no patch may touch it, and `git apply` would refuse the whole of one that does."""
    present = change.new or change.old
    assert present is not None
    status: Status = "modified"
    if change.old is None or change.new is None:
        status = "added" if change.old is None else "deleted"
    elif change.old.artifact_type != change.new.artifact_type:
        status = "type_changed"
    kind = "file" if present.artifact_type == "other" else present.artifact_type
    return FileDiff(change.path, status, kind, None, "git internals", file_count=change.file_count or 1)


def _version(fields: _VersionFields | None, text: bytes | None) -> Version | None:
    if fields is None or fields.artifact_type == "other":
        return None
    if fields.artifact_type == "symlink":
        return Version("symlink", fields.mode, (fields.target or "").encode("utf-8", "surrogateescape"))
    return Version(fields.artifact_type, fields.mode, text if fields.artifact_type == "file" else None)


def _after(found: list[FileDiff], cursor: str | None) -> list[FileDiff]:
    """What `cursor` leaves to be read: it is the path of the last entry, or of one and a place in its patch."""
    if cursor is None:
        return found
    path, _, place = cursor.partition(_WITHIN)
    after = [one for one in found if one.path > path]
    if not place:
        return after
    cut = next((one for one in found if one.path == path and one.text_patch), None)
    if not place.isascii() or not place.isdigit() or len(place) > 9:
        raise InvalidArgument(f"cannot read on at {cursor[:200]!r}: it is no next_cursor", hint="Begin without one.")
    # What has changed since is shown from there on all the same; what is gone, not.
    rest = cut.text_patch[int(place) :] if cut and cut.text_patch else ""
    return [replace(cut, text_patch=rest), *after] if cut and rest else after


def _cursor(last: FileDiff, found: list[FileDiff], rest: int) -> str:
    if not rest:
        return last.path
    whole = next(one.text_patch or "" for one in found if one.path == last.path)
    return f"{last.path}{_WITHIN}{len(whole) - rest}"


def _page(diffs: list[FileDiff], room: int) -> tuple[list[FileDiff], int]:
    """As many as fit whole into `room` characters, but always one, whose patch is cut where it is too long for a page;
    and how many characters of that patch are left."""
    kept: list[FileDiff] = []
    for one in diffs:
        entry = _entry_size(one)
        patch = _size(one.text_patch) if one.text_patch else 0
        if entry + patch > room and kept:
            break
        room -= entry
        if patch > room and one.text_patch:
            piece = _piece(one.text_patch, max(room, MIN_PIECE))
            return [replace(one, text_patch=piece)], len(one.text_patch) - len(piece)
        kept.append(one)
        room -= patch
    return kept, 0


def _piece(text: str, room: int) -> str:
    """The beginning of `text` that takes `room`, up to the end of a line if one ends there."""
    piece = text[:room]
    while _size(piece) > room and len(piece) > 1:
        piece = piece[: max(1, len(piece) * room // _size(piece))]
    if len(piece) == len(text):
        return piece
    return piece[: piece.rfind("\n") + 1] or piece


def _entry_size(one: FileDiff) -> int:
    """What its entry takes, without the patch."""
    told = {name: value for name, value in asdict(one).items() if value and name != "text_patch"}
    # Some write a space after each colon and comma.
    return _size(told) + 2 * len(told) + 2


def _size(value: Any) -> int:
    return len(encode_json(value))


def _fitting(diffs: list[FileDiff]) -> list[FileDiff]:
    """As many as one answer holds. Texts go before names do."""
    left, shown = ANSWER_BYTES, []
    names = [len(encode_json({"path": one.path})) + _ENTRY_BYTES for one in diffs]
    left -= sum(names)
    while left < 0:
        left += names.pop()
    for one in diffs[: len(names)]:
        # A text stands in its entry and once more in the whole patch.
        cost = 2 * len(encode_json({"": one.text_patch})) if one.text_patch else 0
        fits = cost <= left
        shown.append(one if fits else FileDiff(one.path, one.status, one.artifact_type, None, "too large"))
        left -= cost if fits else 0
    return shown


def _broken(how: str) -> ProtocolError:
    return ProtocolError(f"cannot use the agent's answer to changes: {how}")
