"""The services table: what was started in a workspace since its last reset, and what became of it.

A row is written before the service starts. Several rows may have one name, of which the latest is the service; only
that one can be alive. `stdout` and `stderr` are the end of what it said, kept when it is over.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from pyro_mcp.model.service import ALIVE
from pyro_mcp.store.database import Database

HISTORY_MAX = 200
"""So many ended services of a workspace are remembered."""


@dataclass(frozen=True, slots=True)
class ServiceRow:
    """One run of a service. Times are Unix seconds."""

    run: str
    workspace_id: str
    generation: int
    machine_id: str
    service_name: str
    state: str
    command: str
    cwd: str
    readiness: dict[str, Any] | None
    restart: str
    execution_mode: str
    isolation: str
    started_at: float
    published_ports: list[dict[str, Any]] = field(default_factory=list)
    restart_count: int = 0
    ready_at: float | None = None
    ended_at: float | None = None
    exit_code: int | None = None
    signal: str | None = None
    pid: int | None = None
    stop_reason: str | None = None
    stdout: str = ""
    stderr: str = ""

    @property
    def alive(self) -> bool:
        return self.state in ALIVE


_COLUMNS = tuple(one.name for one in fields(ServiceRow))
_INSERT = f"INSERT INTO services ({', '.join(_COLUMNS)}) VALUES ({', '.join(':' + name for name in _COLUMNS)})"
_CHANGING = ("state", "published_ports", "restart_count", "ready_at", "ended_at", "exit_code", "signal", "pid")
_UPDATE = ", ".join(f"{name}=:{name}" for name in (*_CHANGING, "stop_reason", "stdout", "stderr"))
_ALIVE = "state IN ('starting', 'ready', 'running')"
_LATEST = (
    "service_id IN (SELECT max(service_id) FROM services WHERE workspace_id=:id GROUP BY generation, service_name)"
)


class ServiceTable:
    """The only code that writes the services table. Every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, row: ServiceRow) -> bool | ServiceRow:
        """Record that a service is about to start and that its workspace is active; True when done.

        The living service of that name, if there is one; False when the workspace is no longer of `row`'s generation.
        """
        values = _values(row)
        with self._database.transaction() as connection:
            moved = connection.execute(
                "UPDATE workspaces SET last_activity_at=max(last_activity_at, :started_at)"
                " WHERE workspace_id=:workspace_id AND generation=:generation AND state='ready'",
                values,
            )
            if moved.rowcount == 0:
                return False
            found = connection.execute(
                "SELECT * FROM services WHERE workspace_id=:workspace_id AND generation=:generation"
                f" AND service_name=:service_name AND {_ALIVE}",
                values,
            ).fetchone()
            if found is not None:
                return _row(found)
            connection.execute(_INSERT, values)
            connection.execute(
                f"DELETE FROM services WHERE workspace_id=:workspace_id AND NOT {_ALIVE} AND service_id NOT IN"
                " (SELECT service_id FROM services WHERE workspace_id=:workspace_id"
                " ORDER BY service_id DESC LIMIT :most)",
                {**values, "most": HISTORY_MAX},
            )
        return True

    def update(self, row: ServiceRow, *, only_alive: bool = False) -> bool:
        """Write what changes in a service's life. `only_alive`: unless its end is recorded already; False then."""
        condition = f" AND {_ALIVE}" if only_alive else ""
        with self._database.transaction() as connection:
            done = connection.execute(f"UPDATE services SET {_UPDATE} WHERE run=:run{condition}", _values(row))
            return done.rowcount == 1

    def end(self, row: ServiceRow) -> None:
        """Record its end, unless that is recorded already."""
        self._database.note((f"UPDATE services SET {_UPDATE} WHERE run=:run AND {_ALIVE}", _values(row)))

    def forget(self, run: str) -> None:
        """It was never started. Idempotent."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM services WHERE run=:run", {"run": run})

    def get(self, run: str) -> ServiceRow | None:
        found = self._database.rows("SELECT * FROM services WHERE run=:run", {"run": run})
        return _row(found[0]) if found else None

    def latest(self, workspace_id: str, generation: int) -> list[ServiceRow]:
        """The last one of each name, in the order in which they were started."""
        found = self._database.rows(
            f"SELECT * FROM services WHERE workspace_id=:id AND generation=:generation AND {_LATEST}"
            " ORDER BY service_id",
            {"id": workspace_id, "generation": generation},
        )
        return [_row(row) for row in found]

    def ended(self, workspace_id: str, generation: int) -> list[ServiceRow]:
        """All that are over, the latest first."""
        found = self._database.rows(
            "SELECT * FROM services WHERE workspace_id=:id AND generation=:generation"
            f" AND NOT {_ALIVE} ORDER BY service_id DESC",
            {"id": workspace_id, "generation": generation},
        )
        return [_row(row) for row in found]

    def alive(self) -> list[ServiceRow]:
        """What runs in all workspaces, or did when its node died."""
        return [_row(row) for row in self._database.rows(f"SELECT * FROM services WHERE {_ALIVE} ORDER BY service_id")]


def _values(row: ServiceRow) -> dict[str, Any]:
    readiness = None if row.readiness is None else json.dumps(row.readiness)
    return {**asdict(row), "readiness": readiness, "published_ports": json.dumps(row.published_ports)}


def _row(row: sqlite3.Row) -> ServiceRow:
    values = {name: row[name] for name in _COLUMNS}
    values["readiness"] = None if values["readiness"] is None else json.loads(values["readiness"])
    values["published_ports"] = json.loads(values["published_ports"])
    return ServiceRow(**values)
