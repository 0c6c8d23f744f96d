"""Workspace results: what the lifecycle verbs answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, cast

from pyro_mcp.model.network import NetworkPolicy
from pyro_mcp.model.page import ListPage
from pyro_mcp.model.process import ExecutionMode, Isolation
from pyro_mcp.model.result import Result
from pyro_mcp.model.sync import Skipped
from pyro_mcp.model.workspace_exec import CommandEntry

WorkspaceState = Literal["creating", "starting", "started", "stopping", "stopped", "deleting"]
SeedMode = Literal["empty", "directory", "archive", "git"]


@dataclass(frozen=True, kw_only=True)
class WorkspaceSeed(Result):
    """What the workspace started with, its baseline. `seed_path` is null for `empty`; `skipped` says what was left
    out, at most the first hundred of `skipped_count`. `git` is a checkout with its repository, at the commit `head` of
    `branch`, each null where there is none, and uncommitted changes; it is of `repo_url` if it was cloned for this."""

    mode: SeedMode = "empty"
    seed_path: str | None = None
    destination: str = "/workspace"
    entry_count: int = 0
    bytes_written: int = 0
    head: str | None = None
    branch: str | None = None
    repo_url: str | None = None
    skipped_count: int = 0
    skipped: list[Skipped] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class WorkspaceSecret(Result):
    """A secret by its name; the value is never shown."""

    name: str
    source_kind: Literal["literal", "file"]


@dataclass(frozen=True, kw_only=True)
class Workspace(Result):
    """A persistent sandbox. It is deleted by itself at `expires_at` (UTC), `ttl_seconds` after `created_at`.

    `workspace_path` is where commands find it. `metadata` says more where there is more to say: `reason` why it is
    stopped, `machine_id` which machine it lives in, `file_system` what a program can do on ext4 but not there,
    `host_directory` what stands for /workspace under `host_compat`, where it is a plain directory. `allow_hosts` null
    allows every public host name and an empty list none; `allow_addresses` are open although they are not public; with
    `host_ca` it trusts what this host trusts. Counts and `last_command` are since the last reset.
    """

    workspace_id: str
    name: str | None
    labels: dict[str, str]
    environment: str
    vcpu_count: int
    mem_mib: int
    ttl_seconds: int
    created_at: datetime
    last_activity_at: datetime
    expires_at: datetime
    state: WorkspaceState
    network_policy: NetworkPolicy
    network_enabled: bool
    allow_hosts: list[str] | None
    allow_addresses: list[str]
    host_ca: bool
    allow_host_compat: bool
    guest_ip: str | None
    execution_mode: ExecutionMode
    isolation: Isolation
    workspace_path: str
    workspace_seed: WorkspaceSeed
    secrets: list[WorkspaceSecret]
    command_count: int
    last_command: CommandEntry | None
    reset_count: int
    last_reset_at: datetime | None
    service_count: int = 0
    running_service_count: int = 0
    running_command_count: int = 0
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class WorkspaceList(ListPage):
    """Workspaces, the most recently active first. Iterating goes over them."""

    workspaces: list[Workspace]

    def __iter__(self) -> Iterator[Workspace]:
        return iter(self.workspaces)

    def __len__(self) -> int:
        return len(self.workspaces)


@dataclass(frozen=True, kw_only=True)
class WorkspaceDeleted(Result):
    """A workspace that is gone, with everything in it."""

    workspace_id: str
    deleted: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class WorkspaceReset(Result):
    """What a reset restored."""

    snapshot_name: str
    kind: Literal["baseline", "named"]
    destination: str
    entry_count: int
    bytes_written: int


@dataclass(frozen=True, kw_only=True)
class ResetWorkspace(Workspace):
    """A workspace after its reset."""

    workspace_reset: WorkspaceReset


_RUNNING: dict[str, WorkspaceState] = {
    "creating": "starting",
    "starting": "starting",
    "running": "started",
    "stopping": "stopping",
}


def shown_state(workspace: str, machine: str | None) -> WorkspaceState:
    """The state of a workspace, from the states of its row and of its machine's, None without a machine."""
    if workspace != "ready":
        return cast(WorkspaceState, workspace)
    return _RUNNING.get(machine, "stopped") if machine else "stopped"
