"""View: a workspace as the surfaces show it, put together from its row, its machine and its history."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import cast

from pyro_mcp.engine.commands.manager import CommandManager
from pyro_mcp.engine.fleet.fleet import Fleet
from pyro_mcp.engine.fleet.networks import UNENFORCED, shown
from pyro_mcp.engine.secrets.store import SecretManager
from pyro_mcp.engine.services.manager import ServiceManager
from pyro_mcp.errors import NotFound
from pyro_mcp.model.network import GUEST_IP, NetworkPolicy
from pyro_mcp.model.process import ExecutionMode, Isolation
from pyro_mcp.model.workspace import Workspace, WorkspaceSecret, WorkspaceSeed, shown_state
from pyro_mcp.operations.encode import decode
from pyro_mcp.store.machines import MachineRow
from pyro_mcp.store.workspaces import WorkspaceRow

MISSING = (
    "ext4 under an overlay: O_TMPFILE, file handles, swap files, RENAME_WHITEOUT, another overlay's upper directory and"
    " mknod of a character device 0, 0 are refused; a shared mapping made before a seeded file's first write goes on"
    " showing its old content"
)
"""What a program may do on ext4 and not in a guest."""


class WorkspaceView:
    """Shows workspaces."""

    def __init__(
        self, fleet: Fleet, secrets: SecretManager, commands: CommandManager, services: ServiceManager
    ) -> None:
        self._fleet = fleet
        self._secrets = secrets
        self._commands = commands
        self._services = services

    def to_model(self, row: WorkspaceRow) -> Workspace:
        """The workspace `row` as it is now."""
        machine = self._machine(row)
        services, alive = self._services.counts(row)
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
            state=shown_state(row.state, machine.state if machine else None),
            network_policy=cast(NetworkPolicy, row.network_policy),
            network_enabled=row.network_policy != "off",
            **shown(row.network),
            allow_host_compat=row.allow_host_compat,
            guest_ip=GUEST_IP if row.network and not _hosted(machine) else None,
            execution_mode=cast(ExecutionMode, machine.execution_mode if machine else "guest"),
            isolation=cast(Isolation, machine.isolation if machine else "none"),
            workspace_path="/workspace",
            workspace_seed=decode(row.seed, WorkspaceSeed),
            secrets=self._named_secrets(row),
            command_count=self._commands.count(row),
            last_command=self._commands.last(row),
            reset_count=row.generation,
            last_reset_at=None if row.last_reset_at is None else _time(row.last_reset_at),
            service_count=services,
            running_service_count=alive,
            running_command_count=self._commands.running(row.workspace_id),
            metadata=self._metadata(row, machine),
        )

    def _machine(self, row: WorkspaceRow) -> MachineRow | None:
        try:
            return self._fleet.get(row.machine_id)
        except NotFound:
            return None

    def _metadata(self, row: WorkspaceRow, machine: MachineRow | None) -> dict[str, str]:
        fields = {"machine_id": row.machine_id}
        if _hosted(machine):
            fields["host_directory"] = str(self._fleet.directory(row.machine_id) / "root")
            fields["network"] = UNENFORCED
        else:
            fields["file_system"] = MISSING
        if machine and machine.reason and machine.state != "running":
            fields["reason"] = machine.reason
        return fields

    def _named_secrets(self, row: WorkspaceRow) -> list[WorkspaceSecret]:
        named = self._secrets.table.list(row.workspace_id)
        return [WorkspaceSecret(name=name, source_kind="file" if kind == "file" else "literal") for name, kind in named]


def _hosted(machine: MachineRow | None) -> bool:
    return machine is not None and machine.execution_mode == "host_compat"


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
