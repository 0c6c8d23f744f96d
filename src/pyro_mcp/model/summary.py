"""Summary results: one page on what happened in a workspace."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from pyro_mcp.model.diff import DiffSummary
from pyro_mcp.model.network import SummaryNetwork
from pyro_mcp.model.process import ExecutionMode, Isolation
from pyro_mcp.model.result import Result
from pyro_mcp.model.service import Service
from pyro_mcp.model.shell import Shell
from pyro_mcp.model.snapshot import Snapshot
from pyro_mcp.model.workspace import WorkspaceSeed, WorkspaceState
from pyro_mcp.model.workspace_exec import CommandEntry


@dataclass(frozen=True, kw_only=True)
class SummaryCommand(CommandEntry):
    """A command with the last lines it said, on standard error if there were any there."""

    output_tail: str = ""


@dataclass(frozen=True, kw_only=True)
class SummaryCommands(Result):
    """What ran. `failed` are those that ended by themselves with another exit code than 0 or by their timeout, and
    those that were lost; `not_started` were refused before they began. `failures` and `recent` are the latest of each,
    the latest first."""

    total: int
    succeeded: int
    failed: int
    ended: int
    running: int
    failures: list[SummaryCommand]
    recent: list[CommandEntry]
    not_started: int = 0


@dataclass(frozen=True, kw_only=True)
class SummaryChange(Result):
    """One changed path."""

    path: str
    status: Literal["added", "modified", "deleted", "type_changed"]
    added_lines: int
    deleted_lines: int


@dataclass(frozen=True, kw_only=True)
class SummaryChanges(Result):
    """How /workspace differs from its baseline now. `entries` are the first of `totals.total` changes."""

    totals: DiffSummary
    added_lines: int
    deleted_lines: int
    truncated: bool
    entries: list[SummaryChange]


@dataclass(frozen=True, kw_only=True)
class SummaryEdits(Result):
    """How often something was written, and the paths that were, the latest first."""

    count: int = 0
    paths: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class SummaryTransfer(Result):
    """One import from or export to `host_path` of the host."""

    path: str
    host_path: str
    entry_count: int
    bytes_written: int
    recorded_at: datetime


@dataclass(frozen=True, kw_only=True)
class SummaryTransfers(Result):
    """All imports or exports; `entries` are the latest, the latest first."""

    count: int = 0
    entries: list[SummaryTransfer] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class SummaryServices(Result):
    """Services: those that are alive, and of the `before_count` that are over the latest, failures first."""

    now: list[Service] = field(default_factory=list)
    before: list[Service] = field(default_factory=list)
    before_count: int = 0
    failed: int = 0


@dataclass(frozen=True, kw_only=True)
class SummaryShells(Result):
    """Shells: those that run, and how many were `opened`."""

    now: list[Shell] = field(default_factory=list)
    opened: int = 0


@dataclass(frozen=True, kw_only=True)
class WorkspaceSummary(Result):
    """What happened in a workspace `since` its last reset, or its creation.

    `changes` is null when it is unknown, and `changes_unknown` says why: a stopped workspace is not started for it.
    """

    workspace_id: str
    name: str | None
    environment: str
    state: WorkspaceState
    execution_mode: ExecutionMode
    isolation: Isolation
    since: datetime
    reset_count: int
    last_activity_at: datetime
    expires_at: datetime
    workspace_seed: WorkspaceSeed
    commands: SummaryCommands
    changes: SummaryChanges | None
    changes_unknown: str | None
    file_edits: SummaryEdits
    patches: SummaryEdits
    syncs: SummaryTransfers
    exports: SummaryTransfers
    snapshots: list[Snapshot]
    starts: int
    stops: int
    shells: SummaryShells = field(default_factory=SummaryShells)
    services: SummaryServices = field(default_factory=lambda: SummaryServices())
    network: SummaryNetwork = field(default_factory=SummaryNetwork)
