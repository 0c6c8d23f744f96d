"""The commands table: what was run in a workspace since its last reset, and how it ended.

A row is written before the command starts; one that is still `running` when a node opens the store has lost its node,
and either goes on by itself or is lost.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass, field
from typing import Any, Literal

from pyro_mcp.store.database import Database

CommandState = Literal["running", "finished", "ended", "lost"]


@dataclass(frozen=True, slots=True)
class CommandRow:
    """One command. `ended`: somebody ended it; `lost`: its machine or its node went away, `reason` says how."""

    workspace_id: str
    generation: int
    sequence: int
    state: CommandState
    command: str
    cwd: str
    execution_mode: str
    isolation: str
    started_at: float
    duration_ms: int | None = None
    exit_code: int | None = None
    signal: str | None = None
    timed_out: bool = False
    stdout_dropped: int = 0
    stderr_dropped: int = 0
    reason: str | None = None
    network_refusals: list[dict[str, Any]] = field(default_factory=list)


_KEY = "workspace_id=:workspace_id AND generation=:generation"


@dataclass(frozen=True, slots=True)
class Tally:
    """How the commands of a workspace went. `failed` counts the lost ones too."""

    succeeded: int
    failed: int
    ended: int
    running: int


_FAILED = "(state='lost' OR (state='finished' AND exit_code<>0))"


class Commands:
    """The only code that writes the commands table. Every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, **values: Any) -> CommandRow | None:
        """Record that a command is about to start, under the next sequence, and that its workspace is active.

        None when the workspace is no longer of `generation`, or is being deleted.
        """
        with self._database.transaction() as connection:
            moved = connection.execute(
                "UPDATE workspaces SET last_activity_at=max(last_activity_at, :started_at)"
                f" WHERE {_KEY} AND state='ready'",
                values,
            )
            if moved.rowcount == 0:
                return None
            last = connection.execute(f"SELECT max(sequence) FROM commands WHERE {_KEY}", values).fetchone()[0]
            row = CommandRow(sequence=(last or 0) + 1, state="running", **values)
            connection.execute(
                "INSERT INTO commands (workspace_id, generation, sequence, state, command, cwd, execution_mode,"
                " isolation, started_at, timed_out, stdout_dropped, stderr_dropped) VALUES (:workspace_id, :generation,"
                " :sequence, 'running', :command, :cwd, :execution_mode, :isolation, :started_at, 0, 0, 0)",
                {**values, "sequence": row.sequence},
            )
        return row

    def finish(self, row: CommandRow, now: float) -> None:
        """Record `row`'s outcome. One whose history a reset has cleared stays cleared."""
        values = {name: getattr(row, name) for name in row.__dataclass_fields__}
        values["network_refusals"] = json.dumps(row.network_refusals)
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE commands SET state=:state, duration_ms=:duration_ms, exit_code=:exit_code, signal=:signal,"
                " timed_out=:timed_out, stdout_dropped=:stdout_dropped, stderr_dropped=:stderr_dropped, reason=:reason,"
                " network_refusals=:network_refusals"
                f" WHERE {_KEY} AND sequence=:sequence",
                values,
            )
            connection.execute(
                f"UPDATE workspaces SET last_activity_at=max(last_activity_at, :now) WHERE {_KEY}",
                {**values, "now": now},
            )

    def lose(self, row: CommandRow) -> None:
        """Record that how `row` ended is not known; its `reason` says why."""
        values = {name: getattr(row, name) for name in row.__dataclass_fields__}
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE commands SET state='lost', reason=:reason, stdout_dropped=:stdout_dropped,"
                f" stderr_dropped=:stderr_dropped WHERE {_KEY} AND sequence=:sequence AND state='running'",
                values,
            )

    def running(self) -> list[CommandRow]:
        """What runs in all workspaces, or did when its node died."""
        return [_row(row) for row in self._database.rows("SELECT * FROM commands WHERE state='running'", {})]

    def get(self, workspace_id: str, generation: int, sequence: int) -> CommandRow | None:
        values = {"workspace_id": workspace_id, "generation": generation, "sequence": sequence}
        found = self._database.rows(f"SELECT * FROM commands WHERE {_KEY} AND sequence=:sequence", values)
        return _row(found[0]) if found else None

    def latest(self, workspace_id: str, generation: int, limit: int) -> list[CommandRow]:
        """The last `limit` commands, oldest first."""
        values = {"workspace_id": workspace_id, "generation": generation, "limit": limit}
        found = self._database.rows(f"SELECT * FROM commands WHERE {_KEY} ORDER BY sequence DESC LIMIT :limit", values)
        return [_row(row) for row in reversed(found)]

    def tally(self, workspace_id: str, generation: int) -> Tally:
        values = {"workspace_id": workspace_id, "generation": generation}
        found = self._database.rows(
            "SELECT total(state='finished' AND exit_code=0) AS succeeded, total(state='ended') AS ended,"
            f" total(state='running') AS running, total{_FAILED} AS failed FROM commands WHERE {_KEY}",
            values,
        )[0]
        return Tally(int(found["succeeded"]), int(found["failed"]), int(found["ended"]), int(found["running"]))

    def failures(self, workspace_id: str, generation: int, limit: int) -> list[CommandRow]:
        """The last `limit` commands that failed, the latest first."""
        values = {"workspace_id": workspace_id, "generation": generation, "limit": limit}
        return [
            _row(row)
            for row in self._database.rows(
                f"SELECT * FROM commands WHERE {_KEY} AND {_FAILED} ORDER BY sequence DESC LIMIT :limit", values
            )
        ]

    def count(self, workspace_id: str, generation: int) -> int:
        values = {"workspace_id": workspace_id, "generation": generation}
        return int(self._database.rows(f"SELECT count(*) FROM commands WHERE {_KEY}", values)[0][0])


def _row(row: sqlite3.Row) -> CommandRow:
    refusals = json.loads(row["network_refusals"])
    return CommandRow(**{**dict(row), "timed_out": bool(row["timed_out"]), "network_refusals": refusals})
