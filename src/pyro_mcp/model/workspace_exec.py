"""Workspace exec results: commands in a workspace, under way and done."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from pyro_mcp.model.network import NetworkRefusal
from pyro_mcp.model.process import ExecutionMode, Isolation
from pyro_mcp.model.result import Result

CommandState = Literal["running", "finished", "ended", "lost", "not_started"]


@dataclass(frozen=True, kw_only=True)
class CommandEntry(Result):
    """One command of a workspace's history.

    `state`: `running`; `finished` by itself or by its timeout; `ended` because somebody asked for it or the host's
    disk was full; `lost` with its machine or its node; `not_started`, because it was refused. `reason` says more.
    `exit_code` is null while it runs and when it was lost or never started, else as a shell has it: 128+n when signal n
    ended it (then `signal` names it), 124 when `timed_out`. `duration_ms` counts up while it runs. `recorded_at` is
    when it started (UTC).
    """

    sequence: int
    command: str
    cwd: str
    state: CommandState
    exit_code: int | None
    duration_ms: int
    execution_mode: ExecutionMode
    isolation: Isolation
    recorded_at: datetime
    signal: str | None = None
    timed_out: bool = False
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class CommandOutput(CommandEntry):
    """A command with output. Each stream keeps its first and last part up to a bound; `truncated` says that something
    was left out, the `..._dropped_bytes` how much. `next_cursor` is where output that comes later begins; `more`: there
    is some already, past what was asked for. `network_refusals` are what the network policy refused to the workspace
    while it ran, the first 32 different ones. `encoding_lossy`: output was not UTF-8 and bytes were replaced.
    """

    next_cursor: str
    more: bool = False
    truncated: bool = False
    stdout_dropped_bytes: int = 0
    stderr_dropped_bytes: int = 0
    encoding_lossy: bool = False
    stdout: str = ""
    stderr: str = ""
    network_refusals: list[NetworkRefusal] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class WorkspaceExec(CommandOutput):
    """What became of a command so far. With `state` `running` it goes on: ask the logs for its `sequence`
    and `next_cursor` for what comes next."""

    workspace_id: str


@dataclass(frozen=True, kw_only=True)
class WorkspaceLogs(Result):
    """Commands since the last reset, oldest first. `count` entries are here, of `command_count` there are."""

    workspace_id: str
    count: int
    command_count: int
    entries: list[CommandOutput]
