"""The secrets table: the names of a workspace's secrets and where they came from. Never their values."""

from __future__ import annotations

from collections.abc import Iterable

from pyro_mcp.store.database import Database


class SecretTable:
    """The only code that writes the secrets table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def insert(self, workspace_id: str, named: Iterable[tuple[str, str]]) -> None:
        """Record `(name, source_kind)` pairs; the kinds are `literal` and `file`."""
        with self._database.transaction() as connection:
            connection.executemany(
                "INSERT INTO secrets (workspace_id, name, source_kind) VALUES (?, ?, ?)",
                [(workspace_id, name, kind) for name, kind in named],
            )

    def list(self, workspace_id: str) -> list[tuple[str, str]]:
        """`(name, source_kind)` by name."""
        found = self._database.rows(
            "SELECT name, source_kind FROM secrets WHERE workspace_id=:id ORDER BY name", {"id": workspace_id}
        )
        return [(row["name"], row["source_kind"]) for row in found]
