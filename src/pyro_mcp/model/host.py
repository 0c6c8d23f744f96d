"""Host results: the entry that makes a chat host start `pyro mcp serve`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pyro_mcp.model.result import Result

HostAction = Literal["added", "updated", "unchanged", "removed", "absent"]
HostStatus = Literal[
    "ok",
    "slow",
    "drifted",
    "duplicate-scope",
    "fails",
    "command-missing",
    "unreadable-config",
    "not-connected",
    "not-installed",
]
"""From harmless to hopeless."""


@dataclass(frozen=True, kw_only=True)
class HostChange(Result):
    """What became of the entry `name` at one scope of a host; with `dry_run`, what would have.

    `diff` is a unified diff of `path`, or of the entry alone where the host's own program writes a larger file.
    """

    host: str
    name: str
    scope: str
    path: str
    action: HostAction
    dry_run: bool
    command: list[str]
    diff: str
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class HostChanges(Result):
    """What was done, scope by scope. `notes` are about this computer, not about one entry."""

    changes: list[HostChange]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class HostProblem(Result):
    """One finding. `entry_keys` are those of the entry that differ; `remedy` says what to do."""

    status: HostStatus
    detail: str
    remedy: str | None = None
    entry_keys: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class HostApprovals(Result):
    """The tools that the host runs unasked, and those it asks a person about, and how to change that."""

    unasked: list[str]
    asks: list[str]
    how: str


@dataclass(frozen=True, kw_only=True)
class HostReport(Result):
    """One host: `status` is the gravest of `problems`. Times are seconds, null when the server was not tried.

    `ready_seconds` is from start to the answer of `tools/list`, `exit_seconds` from the end of its input to its own.
    """

    host: str
    name: str
    status: HostStatus
    version: str | None = None
    scope: str | None = None
    path: str | None = None
    command: list[str] = field(default_factory=list)
    problems: list[HostProblem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    initialize_seconds: float | None = None
    ready_seconds: float | None = None
    exit_seconds: float | None = None
    tool_count: int | None = None
    approvals: HostApprovals | None = None


@dataclass(frozen=True, kw_only=True)
class HostReports(Result):
    """All hosts that were looked at. `ok`: none of the connected ones has a problem that stops it."""

    ok: bool
    hosts: list[HostReport]
