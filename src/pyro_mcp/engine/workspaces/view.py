"""Portrait: a workspace as the surfaces show it, put together from its row, its machine and its history."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

from pyro_mcp.engine.fleet.networks import UNENFORCED, shown
from pyro_mcp.errors import NotFound
from pyro_mcp.model.network import GUEST_IP, NetworkPolicy
from pyro_mcp.model.process import ExecutionMode, Isolation
from pyro_mcp.model.workspace import Workspace, WorkspaceSecret, WorkspaceSeed, WorkspaceState
from pyro_mcp.operations.encode import decode
from pyro_mcp.store.machines import MachineRow
from pyro_mcp.store.secrets import Secrets
from pyro_mcp.store.workspaces import WorkspaceRow

if TYPE_CHECKING:
    from pyro_mcp.engine.engine import Engine

MISSING = (
    "ext4 under an overlay: O_TMPFILE, file handles, swap files, RENAME_WHITEOUT and another overlay's upper directory"
    " are refused; a shared mapping made before a seeded file's first write goes on showing its old content"
)
"""What a program may do on ext4 and not in a guest."""
_STATES: dict[str, WorkspaceState] = {
    "creating": "starting",
    "starting": "starting",
    "running": "started",
    "stopping": "stopping",
}


def portrait(engine: Engine, row: WorkspaceRow) -> Workspace:
    """The workspace `row` as it is now."""
    machine = _machine(engine, row)
    services, alive = engine.services.counts(row)
    return Workspace(
        workspace_id=row.workspace_id,
        name=row.name,
        labels=row.labels,
        environment=row.environment,
        vcpu_count=row.vcpu_count,
        mem_mib=row.mem_mib,
        ttl_seconds=row.ttl_seconds,
        created_at=_time(row.created_at),
        last_activity_at=_time(row.last_activity_at),
        expires_at=_time(row.expires_at),
        state=_state(row, machine),
        network_policy=cast(NetworkPolicy, row.network_policy),
        network_enabled=row.network_policy != "off",
        **shown(row.network),
        allow_host_compat=row.allow_host_compat,
        guest_ip=GUEST_IP if row.network and not _hosted(machine) else None,
        execution_mode=cast(ExecutionMode, machine.execution_mode if machine else "guest"),
        isolation=cast(Isolation, machine.isolation if machine else "none"),
        workspace_path="/workspace",
        workspace_seed=decode(row.seed, WorkspaceSeed),
        secrets=_secrets(engine, row),
        command_count=engine.commands.count(row),
        last_command=engine.commands.last(row),
        reset_count=row.generation,
        last_reset_at=None if row.last_reset_at is None else _time(row.last_reset_at),
        service_count=services,
        running_service_count=alive,
        running_command_count=engine.commands.running(row.workspace_id),
        metadata=_metadata(engine, row, machine),
    )


def _machine(engine: Engine, row: WorkspaceRow) -> MachineRow | None:
    try:
        return engine.lifecycle.machine(row)
    except NotFound:
        return None


def _state(row: WorkspaceRow, machine: MachineRow | None) -> WorkspaceState:
    if row.state != "ready":
        return row.state
    return _STATES.get(machine.state, "stopped") if machine else "stopped"


def _metadata(engine: Engine, row: WorkspaceRow, machine: MachineRow | None) -> dict[str, str]:
    facts = {"machine_id": row.machine_id}
    if _hosted(machine):
        facts["host_directory"] = str(engine.fleet.directory(row.machine_id) / "root")
        facts["network"] = UNENFORCED
    else:
        facts["file_system"] = MISSING
    if machine and machine.reason and machine.state != "running":
        facts["reason"] = machine.reason
    return facts


def _hosted(machine: MachineRow | None) -> bool:
    return machine is not None and machine.execution_mode == "host_compat"


def _secrets(engine: Engine, row: WorkspaceRow) -> list[WorkspaceSecret]:
    named = Secrets(engine.database).list(row.workspace_id)
    return [WorkspaceSecret(name=name, source_kind="file" if kind == "file" else "literal") for name, kind in named]


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
