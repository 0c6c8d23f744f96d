"""The workspaces table: what each is, which machine it lives in, and when it ends.

`creating` and `deleting` are intents, written before the effect. `generation` counts resets; rows of other tables that
carry an older one are history that a reset has cleared.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from pyro_mcp.model.size import MachineSize
from pyro_mcp.store.database import Database

WorkspaceState = Literal["creating", "ready", "deleting"]


@dataclass(frozen=True, slots=True)
class WorkspaceRow:
    """One workspace. Times are Unix seconds; `deadline_ns` counts on the boot clock of the boot `boot_id`."""

    workspace_id: str
    machine_id: str
    state: WorkspaceState
    name: str | None
    labels: dict[str, str]
    environment: str
    vcpu_count: int
    mem_mib: int
    scratch_mib: int
    network_policy: str
    allow_host_compat: bool
    seed: dict[str, Any]
    ttl_seconds: int
    created_at: float
    expires_at: float
    boot_id: str
    deadline_ns: int
    last_activity_at: float
    generation: int = 0
    last_reset_at: float | None = None
    network: dict[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> MachineSize:
        return MachineSize(self.vcpu_count, self.mem_mib, self.scratch_mib)


_COLUMNS = tuple(one.name for one in fields(WorkspaceRow))
_INSERT = f"INSERT INTO workspaces ({', '.join(_COLUMNS)}) VALUES ({', '.join(':' + name for name in _COLUMNS)})"


class Workspaces:
    """The only code that writes the workspaces table. Every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def insert(self, row: WorkspaceRow) -> None:
        values = {**asdict(row), "labels": json.dumps(row.labels), "seed": json.dumps(row.seed)}
        values["network"] = json.dumps(row.network)
        with self._database.transaction() as connection:
            connection.execute(_INSERT, values)

    def get(self, workspace_id: str) -> WorkspaceRow | None:
        found = self._database.rows("SELECT * FROM workspaces WHERE workspace_id=:id", {"id": workspace_id})
        return _row(found[0]) if found else None

    def list(self) -> list[WorkspaceRow]:
        """All workspaces, the most recently active first."""
        return [
            _row(row)
            for row in self._database.rows(
                "SELECT * FROM workspaces ORDER BY last_activity_at DESC, created_at DESC, workspace_id"
            )
        ]

    def ready(self, workspace_id: str, seed: dict[str, Any]) -> None:
        """Creation is complete."""
        self._update(workspace_id, "state='ready', seed=:seed", {"seed": json.dumps(seed)})

    def deleting(self, workspace_id: str) -> None:
        self._database.free("UPDATE workspaces SET state='deleting' WHERE workspace_id=:id", {"id": workspace_id})

    def describe(self, workspace_id: str, name: str | None, labels: dict[str, str], now: float) -> None:
        """Give it another name and other labels."""
        values = {"name": name, "labels": json.dumps(labels), "now": now}
        self._update(workspace_id, "name=:name, labels=:labels, last_activity_at=:now", values)

    def touch(self, workspace_id: str, now: float) -> None:
        """Somebody did something in it."""
        self._update(workspace_id, "last_activity_at=max(last_activity_at, :now)", {"now": now})

    def reset(self, workspace_id: str, machine_id: str, now: float) -> None:
        """Move into another machine and forget what was done in the old one."""
        values = {"id": workspace_id, "machine": machine_id, "now": now}
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE workspaces SET machine_id=:machine, generation=generation+1, last_reset_at=:now,"
                " last_activity_at=:now WHERE workspace_id=:id",
                values,
            )
            for table in ("commands", "command_totals", "events", "services"):
                connection.execute(f"DELETE FROM {table} WHERE workspace_id=:id", values)

    def delete(self, workspace_id: str) -> None:
        """Forget it and everything recorded of it. Idempotent."""
        self._database.free("DELETE FROM workspaces WHERE workspace_id=:id", {"id": workspace_id})

    def _update(self, workspace_id: str, assignments: str, values: dict[str, Any]) -> None:
        with self._database.transaction() as connection:
            connection.execute(
                f"UPDATE workspaces SET {assignments} WHERE workspace_id=:id", {**values, "id": workspace_id}
            )


def _row(row: sqlite3.Row) -> WorkspaceRow:
    values = dict(row)
    values["allow_host_compat"] = bool(values["allow_host_compat"])
    values["labels"] = json.loads(values["labels"])
    values["seed"] = json.loads(values["seed"])
    values["network"] = json.loads(values["network"])
    return WorkspaceRow(**values)
