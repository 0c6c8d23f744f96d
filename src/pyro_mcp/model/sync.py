"""Sync results: what came from the host into a workspace after its creation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pyro_mcp.model.process import ExecutionMode, Isolation
from pyro_mcp.model.result import Result


@dataclass(frozen=True, kw_only=True)
class Skipped(Result):
    """A file that was left out or altered, and why. `path` is relative to the root, bytes as lone surrogates."""

    path: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class WorkspaceSync(Result):
    """One import. `destination` is the directory it went into, or the file that was made. `entry_count` counts files,
    directories and links, `bytes_written` the files' content.

    `skipped` names the first of the `skipped_count` files that were left out, such as sockets.
    """

    mode: Literal["directory", "archive", "file"]
    source_path: str
    destination: str
    entry_count: int
    bytes_written: int
    skipped_count: int = 0
    skipped: list[Skipped] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class SyncResult(Result):
    """The workspace and what has been put into it."""

    workspace_id: str
    execution_mode: ExecutionMode
    isolation: Isolation
    workspace_sync: WorkspaceSync
