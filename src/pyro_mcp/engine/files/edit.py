"""The verb `file edit`: read, edit here, and write on the condition that nobody has changed the file meanwhile.

An edit says what it wants to replace, so when somebody was faster it is tried again on what is there now. Only a caller
who has given the digest of what was read is refused at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from pyro_mcp.engine.files.files import ABSENT, Collected, ReadAnswer, Wrote
from pyro_mcp.engine.session import Session
from pyro_mcp.errors import Conflict, InvalidArgument, NotFound
from pyro_mcp.model.count import count_of
from pyro_mcp.model.file import FileEdit, FileEdited
from pyro_mcp.operations.call import Call
from pyro_mcp.trees.edit import MAX_SIZE, Edit, edit

TRIES = 5


def edit_file(
    call: Call[Any],
    session: Session,
    path: str,
    *,
    old_string: str | None,
    new_string: str | None,
    replace_all: bool,
    edits: Sequence[FileEdit] | None,
    expected_sha256: str | None,
) -> FileEdited:
    """Make all edits or none. Raises `InvalidArgument` when one does not fit, `NotFound`, and `Conflict`."""
    wanted = _edits(path, old_string, new_string, replace_all, edits)
    for left in reversed(range(TRIES)):
        call.check()
        try:
            return _try(call, session, path, wanted, expected_sha256)
        except Conflict:
            if expected_sha256 is not None or not left:
                raise
    raise AssertionError


def _try(
    call: Call[Any], session: Session, path: str, wanted: Sequence[Edit], expected_sha256: str | None
) -> FileEdited:
    content = _read(call, session, path)
    seen = None if content is None else hashlib.sha256(content).hexdigest()
    _require(path, seen, expected_sha256)
    if content is None and wanted[0].old:
        hint = "List the directory that it should be in. A new file is made by an edit whose text to replace is empty."
        raise NotFound(f"cannot edit {path}: there is no such file", hint=hint)
    edited = edit(path, content, wanted)
    params = {"path": path, "size": len(edited.content), "expected_sha256": seen}
    said = session.agent.request(call, "file_write", params, Wrote, send=edited.content)
    session.note("file_write", {"path": said.path, "bytes_written": said.size_bytes, "created": said.created})
    return FileEdited(
        **session.stamp,
        path=said.path,
        size_bytes=said.size_bytes,
        created=said.created,
        replacements=edited.replacements,
        first_changed_line=edited.first_line,
        line_ends=edited.line_ends,
        sha256=hashlib.sha256(edited.content).hexdigest(),
    )


def _edits(
    path: str, old: str | None, new: str | None, everywhere: bool, edits: Sequence[FileEdit] | None
) -> list[Edit]:
    """The edits of either form. Raises `InvalidArgument` unless it is exactly one."""
    if edits is not None and (old, new, everywhere) == (None, None, False):
        return [Edit(one["old_string"], one["new_string"], one.get("replace_all", False)) for one in edits]
    if edits is None and old is not None and new is not None:
        return [Edit(old, new, everywhere)]
    raise InvalidArgument(
        f"cannot edit {path}: it takes one edit or a list of them",
        hint="Give <<edit_workspace_file.old_string>> and <<edit_workspace_file.new_string>>, or only"
        " <<edit_workspace_file.edits>>.",
    )


def _read(call: Call[Any], session: Session, path: str) -> bytes | None:
    """The whole file; None when there is none."""
    held = Collected(MAX_SIZE)
    try:
        said = session.agent.request(
            call, "file_read", {"path": path, "max_bytes": MAX_SIZE}, ReadAnswer, on_data=held.add
        )
    except NotFound:
        return None
    if said.truncated:
        size = count_of(said.size_bytes, "byte")
        hint = "Change it with a command, such as sed."
        raise InvalidArgument(f"cannot edit {path}: it has {size}; at most {MAX_SIZE} can be edited", hint=hint)
    return bytes(held.data)


def _require(path: str, seen: str | None, expected: str | None) -> None:
    """Raise `Conflict` unless the file is as the caller last saw it."""
    if expected is None or expected == (seen or ABSENT):
        return
    cause = "it no longer exists" if seen is None else "its content is not the expected"
    if expected == ABSENT:
        cause = "it exists already"
    raise Conflict(f"cannot edit {path}: {cause}", hint="Someone else changed it. Read it again, then decide.")
