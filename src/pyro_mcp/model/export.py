"""Export results: what left a workspace for the host."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pyro_mcp.model.process import ExecutionMode, Isolation
from pyro_mcp.model.result import Result
from pyro_mcp.model.sync import Skipped


@dataclass(frozen=True, kw_only=True)
class ExportResult(Result):
    """A file or directory that is now at `output_path`, whole.

    `can_run` names files that some program of the host may execute or obey by itself, such as `.git/hooks`: look at
    them before using the directory. `skipped` names the first of the `skipped_count` entries that were left out,
    `masked` the first of the `masked_count` files in which the bytes of a secret were overwritten with `*`.
    """

    workspace_id: str
    workspace_path: str
    output_path: str
    artifact_type: Literal["file", "directory"]
    entry_count: int
    bytes_written: int
    execution_mode: ExecutionMode
    isolation: Isolation
    can_run: list[str] = field(default_factory=list)
    skipped_count: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    masked_count: int = 0
    masked: list[str] = field(default_factory=list)
