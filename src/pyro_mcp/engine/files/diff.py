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
from pyro_mcp.errors import ProtocolError
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
    """The live /workspace against the baseline, sorted by path: those after `cursor`, as many as `max_chars` hold."""
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
    after = [one for one in found if cursor is None or one.path > cursor]
    if stat:
        after = [replace(one, text_patch=None) for one in after]
    diffs = _fitting(_page(after, max_chars))
    more = len(diffs) < len(after)
    kept = {} if stat else {one.path: one for one in diffs}
    return DiffResult(
        **session.stamp,
        changed=bool(found),
        summary=totals(kept.get(one.path, one) for one in found),
        truncated=said.truncated or more,
        ignored_count=said.ignored_count,
        next_cursor=diffs[-1].path if more and diffs else None,
        entries=[DiffEntry(**asdict(one)) for one in diffs],
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


def _page(diffs: list[FileDiff], room: int) -> list[FileDiff]:
    """As many as fit whole into `room` characters, but always one."""
    kept: list[FileDiff] = []
    for one in diffs:
        room -= len(encode_json({"path": one.path})) + _ENTRY_BYTES
        room -= len(encode_json({"": one.text_patch})) if one.text_patch else 0
        if room < 0 and kept:
            break
        kept.append(one)
    return kept


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
