"""The file verbs: each opens the workspace's session and works in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

from pyro_mcp.engine.files import diff, edit, export, files, lines, patch, sync
from pyro_mcp.engine.session import Session, Sessions
from pyro_mcp.operations.call import Call

P = ParamSpec("P")
R = TypeVar("R")


def _in_session(
    verb: Callable[Concatenate[Call[Any], Session, P], R],
) -> Callable[Concatenate[FileManager, Call[Any], str, P], R]:
    """`verb` as a method that takes a workspace's id or name instead of a session."""

    def method(self: FileManager, call: Call[Any], ref: str, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return verb(call, self.sessions.open(call, ref), *args, **kwargs)

    return method


class FileManager:
    """The files of all workspaces."""

    def __init__(self, sessions: Sessions) -> None:
        self.sessions = sessions

    list = _in_session(files.list_files)
    read = _in_session(lines.read)
    view = _in_session(lines.view_files)
    write = _in_session(files.write_file)
    edit = _in_session(edit.edit_file)
    search = _in_session(files.search_files)
    patch = _in_session(patch.apply_patch)
    diff = _in_session(diff.diff)
    push = _in_session(sync.push)
    export = _in_session(export.export)
