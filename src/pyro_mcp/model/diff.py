"""Diff results: how a workspace differs from its baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pyro_mcp.model.process import ExecutionMode, Isolation
from pyro_mcp.model.result import Result


@dataclass(frozen=True, kw_only=True)
class DiffSummary(Result):
    """Numbers of changed paths, by kind of change and by whether a text patch could say it."""

    total: int
    added: int
    modified: int
    deleted: int
    type_changed: int
    text_patched: int
    non_text: int


@dataclass(frozen=True, kw_only=True)
class DiffEntry(Result):
    """One changed path, relative to /workspace.

    `artifact_type` is what stands there now, or stood there when it is deleted. `text_patch` is null where text cannot
    say the change, or was not asked to; `reason` then says why: `binary`, `directory`, `too large`, `permissions`,
    `git internals`. Those are one entry for each `.git`, and `file_count` is the number of changes in it.
    `patch_chars_left` is how much of a long patch comes only with `next_cursor`.
    """

    path: str
    status: Literal["added", "modified", "deleted", "type_changed"]
    artifact_type: Literal["file", "directory", "symlink", "other"]
    reason: str | None = None
    added_lines: int = 0
    deleted_lines: int = 0
    file_count: int = 0
    patch_chars_left: int = 0
    text_patch: str | None = None


@dataclass(frozen=True, kw_only=True)
class DiffResult(Result):
    """The live /workspace against the baseline. `patch` joins all text patches and is what `git apply` takes; of
    several pages, all patches together.

    `truncated`: there are more changes than `entries` holds. The summary counts all that were found, at most 20,000;
    `next_cursor` reads on after the last entry, or within its patch. `ignored_count` is the number of new files that
    were left out because a .gitignore names them.
    """

    workspace_id: str
    changed: bool
    summary: DiffSummary
    truncated: bool
    ignored_count: int = 0
    next_cursor: str | None = None
    execution_mode: ExecutionMode
    isolation: Isolation
    entries: list[DiffEntry]
    patch: str
