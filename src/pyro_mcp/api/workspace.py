"""Workspace: the life of a persistent sandbox."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyro_mcp.api.params import (
    AllowAddresses,
    AllowHostCompat,
    AllowHosts,
    ClearName,
    Empty,
    EnvironmentName,
    Git,
    HostCa,
    LabelKeys,
    Labels,
    MemMib,
    PageLimit,
    PageOffset,
    Policy,
    ProjectFileToo,
    RepoRef,
    RepoUrl,
    ScratchMib,
    SecretFiles,
    Secrets,
    SeedPath,
    VcpuCount,
    WorkspaceName,
    WorkspaceRef,
    WorkspaceTtlSeconds,
)
from pyro_mcp.model.project import CreatedWorkspace, ProjectSource
from pyro_mcp.model.workspace import Workspace, WorkspaceDeleted, WorkspaceList
from pyro_mcp.operations.operation import Effects, Operation, operation

if TYPE_CHECKING:
    from pyro_mcp.engine.engine import Engine
    from pyro_mcp.operations.call import Call

_READ = Effects(read_only=True, idempotent=True)
DAY = 86_400


@operation(
    cli=("workspace", "create"),
    tool="workspace_create",
    title="Create a workspace",
    effects=Effects(),
    id_field="workspace_id",
)
def create_workspace(
    call: Call[Engine],
    *,
    environment: EnvironmentName,
    seed_path: SeedPath | None = None,
    git: Git = False,
    repo_url: RepoUrl | None = None,
    repo_ref: RepoRef | None = None,
    empty: Empty = False,
    project_file: ProjectFileToo = False,
    name: WorkspaceName | None = None,
    labels: Labels | None = None,
    network_policy: Policy = "off",
    allow_hosts: AllowHosts | None = None,
    allow_addresses: AllowAddresses | None = None,
    host_ca: HostCa = False,
    secrets: Secrets | None = None,
    secret_files: SecretFiles | None = None,
    vcpu_count: VcpuCount = 1,
    mem_mib: MemMib = 1024,
    scratch_mib: ScratchMib = 8192,
    ttl_seconds: WorkspaceTtlSeconds = DAY,
    allow_host_compat: AllowHostCompat = False,
) -> CreatedWorkspace:
    """Create a persistent sandbox with a directory /workspace, and start it.

    It is a virtual machine to run code safely in, isolated more than a container is, and keeps its files until it is
    deleted or expires. It has no network; <<create_workspace.network_policy>> gives it one.
    """
    return call.engine.projects.create(
        call,
        declared(),
        ProjectSource(seed_path, git, repo_url, repo_ref, empty, project_file),
        {
            "environment": environment,
            "name": name,
            "labels": labels,
            "network_policy": network_policy,
            "allow_hosts": allow_hosts,
            "allow_addresses": allow_addresses,
            "host_ca": host_ca,
            "secrets": secrets,
            "secret_files": secret_files,
            "vcpu_count": vcpu_count,
            "mem_mib": mem_mib,
            "scratch_mib": scratch_mib,
            "ttl_seconds": ttl_seconds,
            "allow_host_compat": allow_host_compat,
        },
    )


def declared() -> dict[str, Operation[Any, Any]]:
    """The verbs whose parameters a project's file sets, and that it has done."""
    from pyro_mcp.api.exec import exec_workspace
    from pyro_mcp.api.service import start_service

    found: tuple[Operation[Any, Any], ...] = (create_workspace, exec_workspace, start_service)
    return {one.name: one for one in found}


@operation(cli=("workspace", "list"), tool="workspace_list", title="List workspaces", effects=_READ)
def list_workspaces(call: Call[Engine], *, limit: PageLimit = 1000, offset: PageOffset = 0) -> WorkspaceList:
    """List the workspaces, the most recently active first."""
    return call.engine.lifecycle.listing(limit, offset)


@operation(cli=("workspace", "status"), tool="workspace_status", title="Show a workspace", effects=_READ)
def status_workspace(call: Call[Engine], workspace_id: WorkspaceRef) -> Workspace:
    """Show a workspace: its state, what it started with, its last command and when it expires."""
    return call.engine.lifecycle.status(workspace_id)


@operation(
    cli=("workspace", "update"),
    tool="workspace_update",
    title="Rename or label a workspace",
    effects=Effects(idempotent=True),
)
def update_workspace(
    call: Call[Engine],
    workspace_id: WorkspaceRef,
    *,
    name: WorkspaceName | None = None,
    clear_name: ClearName = False,
    labels: Labels | None = None,
    clear_labels: LabelKeys | None = None,
) -> Workspace:
    """Change the name and the labels of a workspace. Labels that are not named stay."""
    return call.engine.lifecycle.update(
        workspace_id, name=name, clear_name=clear_name, labels=labels, clear_labels=clear_labels
    )


@operation(
    cli=("workspace", "start"), tool="workspace_start", title="Start a workspace", effects=Effects(idempotent=True)
)
def start_workspace(call: Call[Engine], workspace_id: WorkspaceRef) -> Workspace:
    """Start a stopped workspace with the files it had, and wait until commands can run in it."""
    return call.engine.lifecycle.start(call, workspace_id)


@operation(cli=("workspace", "stop"), tool="workspace_stop", title="Stop a workspace", effects=Effects(idempotent=True))
def stop_workspace(call: Call[Engine], workspace_id: WorkspaceRef) -> Workspace:
    """Stop a workspace. What runs in it ends; its files, snapshots and history stay."""
    return call.engine.lifecycle.stop(workspace_id)


@operation(
    cli=("workspace", "delete"),
    tool="workspace_delete",
    title="Delete a workspace",
    effects=Effects(destructive=True),
)
def delete_workspace(call: Call[Engine], workspace_id: WorkspaceRef) -> WorkspaceDeleted:
    """Delete a workspace with everything in it: files, snapshots, history."""
    return call.engine.lifecycle.delete(workspace_id)
