"""The events table: what was done to a workspace besides running commands, since its last reset.

The summary is made from it: file edits, patches, syncs, exports, snapshots, starts and stops.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pyro_mcp.store.database import Database


@dataclass(frozen=True, slots=True)
class EventRow:
    """One thing that was done. `detail` holds the fields of its kind, JSON values."""

    recorded_at: float
    kind: str
    detail: dict[str, Any]


class Events:
    """The only code that writes the events table. Every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, workspace_id: str, kind: str, detail: dict[str, Any], now: float) -> None:
        """Record it in the workspace's present generation, and that the workspace is active."""
        values = {"id": workspace_id, "kind": kind, "detail": json.dumps(detail), "now": now}
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE workspaces SET last_activity_at=max(last_activity_at, :now) WHERE workspace_id=:id", values
            )
            connection.execute(
                "INSERT INTO events (workspace_id, generation, recorded_at, kind, detail)"
                " SELECT workspace_id, generation, :now, :kind, :detail FROM workspaces WHERE workspace_id=:id",
                values,
            )

    def list(self, workspace_id: str) -> list[EventRow]:
        """Oldest first."""
        found = self._database.rows(
            "SELECT recorded_at, kind, detail FROM events WHERE workspace_id=:id ORDER BY event_id",
            {"id": workspace_id},
        )
        return [EventRow(row["recorded_at"], row["kind"], json.loads(row["detail"])) for row in found]
