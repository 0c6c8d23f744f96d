"""The machines table: what exists, what is being done to it, and when it ends.

A state that ends in -ing is an intent, written before the effect; a node that opens the store and finds one knows
that its predecessor died in the middle.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from pyro_mcp.model.size import MachineSize
from pyro_mcp.store.database import Database

State = Literal["creating", "created", "starting", "running", "stopping", "stopped", "failed", "deleting"]
LIVE: frozenset[State] = frozenset({"creating", "starting", "running", "stopping"})
"""States in which a machine may hold memory."""


@dataclass(frozen=True, slots=True)
class MachineRow:
    """One machine. Times are Unix seconds; `deadline_ns` counts on the boot clock of the boot `boot_id`.

    One that belongs to a workspace lives and ends with it, whatever its own deadline. `network` is its policy as JSON
    values; empty is no network.
    """

    machine_id: str
    environment: str
    digest: str | None
    driver: str
    isolation: str
    execution_mode: str
    vcpu_count: int
    mem_mib: int
    scratch_mib: int
    state: State
    one_shot: bool
    ttl_seconds: int
    created_at: float
    expires_at: float
    boot_id: str
    deadline_ns: int
    reason: str | None = None
    workspace_id: str | None = None
    network: dict[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> MachineSize:
        return MachineSize(self.vcpu_count, self.mem_mib, self.scratch_mib)


_COLUMNS = tuple(one.name for one in fields(MachineRow))
_INSERT = f"INSERT INTO machines ({', '.join(_COLUMNS)}) VALUES ({', '.join(':' + name for name in _COLUMNS)})"


class Machines:
    """The only code that writes the machines table. Every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def insert(self, row: MachineRow) -> None:
        with self._database.transaction() as connection:
            connection.execute(_INSERT, {**asdict(row), "network": json.dumps(row.network)})

    def get(self, machine_id: str) -> MachineRow | None:
        found = self._database.rows("SELECT * FROM machines WHERE machine_id=:id", {"id": machine_id})
        return _row(found[0]) if found else None

    def list(self) -> list[MachineRow]:
        """All machines, oldest first."""
        return [_row(row) for row in self._database.rows("SELECT * FROM machines ORDER BY created_at, machine_id")]

    def set_state(self, machine_id: str, state: State, *, reason: str | None = None, outcome: bool = False) -> None:
        """Enter `state`; `reason` replaces the earlier one. A machine that is gone stays gone. An `outcome`, which
        nobody can take back, is written on a full disk too."""
        values = {"id": machine_id, "state": state, "reason": reason}
        write = self._database.free if outcome else self._database.write
        write("UPDATE machines SET state=:state, reason=:reason WHERE machine_id=:id", values)

    def fail(self, machine_id: str, reason: str) -> None:
        """A running machine has died by itself. One that is being stopped or deleted is left to whoever does it."""
        self._database.note(
            (
                "UPDATE machines SET state='failed', reason=:reason WHERE machine_id=:id AND state='running'",
                {"id": machine_id, "reason": reason},
            )
        )

    def delete(self, machine_id: str) -> None:
        """Forget it. Idempotent."""
        self._database.free("DELETE FROM machines WHERE machine_id=:id", {"id": machine_id})


def _row(row: sqlite3.Row) -> MachineRow:
    values = dict(row)
    values["one_shot"] = bool(values["one_shot"])
    values["network"] = json.loads(values["network"])
    return MachineRow(**values)
