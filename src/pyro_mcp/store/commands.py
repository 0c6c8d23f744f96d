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

CommandState = Literal["running", "finished", "ended", "lost", "not_started"]
NOT_STARTED: CommandState = "not_started"
"""Kept as `ended` without an exit code, which nothing else is: so a store of an earlier version need not change."""


@dataclass(frozen=True, slots=True)
class CommandRow:
    """One command. `ended`: somebody ended it; `lost`: its machine or its node went away; `not_started`: it was refused
    before it could begin. `reason` says why.

    `..._kept` bytes of output are in its journal. Those of one whose `output_gone` count as dropped.
    """

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
    stdout_kept: int = 0
    stderr_kept: int = 0
    output_gone: bool = False


_KEY = "workspace_id=:workspace_id AND generation=:generation"


@dataclass(frozen=True, slots=True)
class Tally:
    """How the commands of a workspace went. `failed` counts the lost ones too, `ended` those that never started and are
    no longer kept."""

    succeeded: int
    failed: int
    ended: int
    running: int
    not_started: int


_FAILED = "(state='lost' OR (state='finished' AND exit_code<>0))"
_NOT_STARTED = "(state='ended' AND exit_code IS NULL)"
_TALLY = (
    f"total(state='finished' AND exit_code=0), total{_FAILED}, total(state='ended') - total{_NOT_STARTED},"
    f" total(state='running'), total{_NOT_STARTED}"
)
_OUTPUT = f"{_KEY} AND stdout_kept + stderr_kept > 0"


class CommandTable:
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
        values = _values(row)
        self._database.note(
            (
                "UPDATE commands SET state=:state, duration_ms=:duration_ms, exit_code=:exit_code, signal=:signal,"
                " timed_out=:timed_out, stdout_dropped=:stdout_dropped, stderr_dropped=:stderr_dropped, reason=:reason,"
                " network_refusals=:network_refusals, stdout_kept=:stdout_kept, stderr_kept=:stderr_kept"
                f" WHERE {_KEY} AND sequence=:sequence",
                values,
            ),
            (
                f"UPDATE workspaces SET last_activity_at=max(last_activity_at, :now) WHERE {_KEY}",
                {**values, "now": now},
            ),
        )

    def lose(self, row: CommandRow) -> None:
        """Record that how `row` ended is not known; its `reason` says why."""
        self._database.note(
            (
                "UPDATE commands SET state='lost', reason=:reason, stdout_dropped=:stdout_dropped,"
                " stderr_dropped=:stderr_dropped, stdout_kept=:stdout_kept, stderr_kept=:stderr_kept"
                f" WHERE {_KEY} AND sequence=:sequence AND state='running'",
                _values(row),
            )
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
            f"SELECT {_TALLY} FROM commands WHERE {_KEY} UNION ALL SELECT succeeded, failed, ended, 0, 0"
            " FROM command_totals WHERE workspace_id=:workspace_id",
            values,
        )
        return Tally(*(int(sum(column)) for column in zip(*found, strict=True)))

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
        """How many were run, those that are no longer kept too: their sequences have no gaps."""
        values = {"workspace_id": workspace_id, "generation": generation}
        return self._database.rows(f"SELECT max(sequence) FROM commands WHERE {_KEY}", values)[0][0] or 0

    def with_output(self, workspace_id: str, generation: int) -> set[int]:
        """The sequences of those whose output is not gone."""
        values = {"workspace_id": workspace_id, "generation": generation}
        found = self._database.rows(f"SELECT sequence FROM commands WHERE {_KEY} AND NOT output_gone", values)
        return {row[0] for row in found}

    def first(self, workspace_id: str, generation: int) -> int:
        """The sequence of the oldest that is kept; 0 without any."""
        values = {"workspace_id": workspace_id, "generation": generation}
        return self._database.rows(f"SELECT min(sequence) FROM commands WHERE {_KEY}", values)[0][0] or 0

    def forget_rows(self, workspace_id: str, generation: int, keep: int) -> list[int]:
        """Forget all that have ended but the latest `keep`; their sequences."""
        values = {"workspace_id": workspace_id, "generation": generation, "keep": keep}
        old = f"{_KEY} AND state<>'running' AND sequence <= (SELECT max(sequence) FROM commands WHERE {_KEY}) - :keep"
        with self._database.transaction() as connection:
            found = [row[0] for row in connection.execute(f"SELECT sequence FROM commands WHERE {old}", values)]
            if found:
                gone = connection.execute(f"SELECT {_TALLY} FROM commands WHERE {old}", values).fetchone()
                connection.execute(
                    "INSERT INTO command_totals VALUES (:workspace_id, :succeeded, :failed, :ended)"
                    " ON CONFLICT DO UPDATE SET succeeded=succeeded+:succeeded, failed=failed+:failed,"
                    " ended=ended+:ended",
                    {**values, "succeeded": int(gone[0]), "failed": int(gone[1]), "ended": int(gone[2]) + int(gone[4])},
                )
                connection.execute(f"DELETE FROM commands WHERE {old}", values)
        return found

    def forget_output(self, workspace_id: str, generation: int, keep: int) -> list[int]:
        """Count the oldest output as dropped, so that at most `keep` bytes of those that are over stay; whose it was.

        What runs has its output recorded when it is over, and is not touched.
        """
        values = {"workspace_id": workspace_id, "generation": generation, "keep": keep}
        total = f"SELECT total(stdout_kept + stderr_kept) FROM commands WHERE {_OUTPUT}"
        if self._database.rows(total, values)[0][0] <= keep:
            return []
        newer = (
            "SELECT sequence, sum(stdout_kept + stderr_kept) OVER (ORDER BY sequence DESC) AS size"
            f" FROM commands WHERE {_OUTPUT}"
        )
        with self._database.transaction() as connection:
            query = f"SELECT sequence FROM ({newer}) WHERE size > :keep ORDER BY sequence"
            found = [row[0] for row in connection.execute(query, values)]
            connection.execute(
                "UPDATE commands SET output_gone=1, stdout_dropped=stdout_dropped+stdout_kept,"
                " stderr_dropped=stderr_dropped+stderr_kept, stdout_kept=0, stderr_kept=0"
                f" WHERE {_OUTPUT} AND sequence <= :last",
                {**values, "last": found[-1] if found else 0},
            )
        return found


def _values(row: CommandRow) -> dict[str, Any]:
    values = {name: getattr(row, name) for name in row.__dataclass_fields__}
    values["network_refusals"] = json.dumps(row.network_refusals)
    values["state"] = "ended" if row.state == NOT_STARTED else row.state
    return values


def _row(row: sqlite3.Row) -> CommandRow:
    values = dict(row)
    if row["state"] == "ended" and row["exit_code"] is None:
        values["state"] = NOT_STARTED
    values["network_refusals"] = json.loads(row["network_refusals"])
    values |= {name: bool(row[name]) for name in ("timed_out", "output_gone")}
    return CommandRow(**values)
