"""The snapshots table: which saved states of a workspace there are, and by which digest their files are known.

A row is written after its file is durable and goes before its file does, so a row always has its file.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from pyro_mcp.store.database import Database


@dataclass(frozen=True, slots=True)
class SnapshotRow:
    """One snapshot. `file` is a name within the workspace's own directory, `sha256` that of the file's content."""

    workspace_id: str
    name: str
    file: str
    sha256: str
    entry_count: int
    bytes_written: int
    created_at: float


class SnapshotTable:
    """The only code that writes the snapshots table. Every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def insert(self, row: SnapshotRow) -> bool:
        """False when the workspace has a snapshot of that name, or is gone."""
        with self._database.transaction() as connection:
            done = connection.execute(
                "INSERT OR IGNORE INTO snapshots (workspace_id, name, file, sha256, entry_count, bytes_written,"
                " created_at) SELECT :workspace_id, :name, :file, :sha256, :entry_count, :bytes_written, :created_at"
                " FROM workspaces WHERE workspace_id=:workspace_id AND state='ready'",
                asdict(row),
            )
            return done.rowcount == 1

    def get(self, workspace_id: str, name: str) -> SnapshotRow | None:
        return next((row for row in self.list(workspace_id) if row.name == name), None)

    def list(self, workspace_id: str) -> list[SnapshotRow]:
        """Oldest first."""
        found = self._database.rows(
            "SELECT * FROM snapshots WHERE workspace_id=:id ORDER BY created_at, name", {"id": workspace_id}
        )
        return [SnapshotRow(**dict(row)) for row in found]

    def delete(self, workspace_id: str, name: str) -> None:
        """Idempotent."""
        self._database.free(
            "DELETE FROM snapshots WHERE workspace_id=:id AND name=:name", {"id": workspace_id, "name": name}
        )
