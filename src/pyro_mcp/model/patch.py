"""Patch results: what a patch changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pyro_mcp.model.process import ExecutionMode, Isolation
from pyro_mcp.model.result import Result


@dataclass(frozen=True, kw_only=True)
class PatchSummary(Result):
    """Numbers of changed names; a rename deletes one and adds one."""

    total: int
    added: int
    modified: int
    deleted: int


@dataclass(frozen=True, kw_only=True)
class PatchEntry(Result):
    """One changed name, relative to /workspace."""

    path: str
    status: Literal["added", "modified", "deleted"]


@dataclass(frozen=True, kw_only=True)
class PatchResult(Result):
    """A patch that has been applied as a whole. `changed` is false when everything was so already.

    `patch` is the patch as it was given.
    """

    workspace_id: str
    changed: bool
    summary: PatchSummary
    execution_mode: ExecutionMode
    isolation: Isolation
    entries: list[PatchEntry]
    patch: str
