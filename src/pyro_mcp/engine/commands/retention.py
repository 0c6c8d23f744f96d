"""Retention: how much of the history of a workspace's commands is kept.

Kept are the rows of the latest `ROWS` commands since the last reset, and `OUTPUT_BYTES` in all of what those that are
over said; the oldest goes first, and what runs stays whatever its age. Of output that is gone `logs` reports
the size. The store forgets before the files go: a node that dies in between leaves files that the next one sweeps away.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from pathlib import Path

from pyro_mcp.engine.commands.journal import remove_output
from pyro_mcp.engine.faults import Faults
from pyro_mcp.errors import PyroError
from pyro_mcp.store.commands import CommandRow, CommandTable
from pyro_mcp.system.atomic import disk_errors

_log = logging.getLogger(__name__)

ROWS = 10_000
OUTPUT_BYTES = 512 * 1024 * 1024
ROUND = 100
"""So many commands pass from one look at the number of rows to the next."""


class Retention:
    """Over the commands table; `directory` says where the journals of a workspace's generation are."""

    def __init__(self, table: CommandTable, directory: Callable[[str, int], Path], faults: Faults) -> None:
        self._table = table
        self._directory = directory
        self._faults = faults

    def trim(self, row: CommandRow) -> None:
        """Make room after the command `row`. A failure is logged, and tried again after the next."""
        place = row.workspace_id, row.generation
        try:
            gone = self._table.forget_output(*place, OUTPUT_BYTES)
            if row.sequence % ROUND == 0:
                gone += self._table.forget_rows(*place, ROWS)
            if gone:
                self._faults("history trimmed")
            with disk_errors("remove old output"):
                for sequence in gone:
                    remove_output(self._directory(*place), sequence)
        except PyroError as error:
            _log.warning(f"cannot trim the history of {row.workspace_id}: {error.message}")

    def sweep(self, workspace_id: str, generation: int, under_way: Collection[int]) -> None:
        """Remove what the end of a node has left of commands that are over, or are forgotten."""
        reported = self._table.with_output(workspace_id, generation)
        home = self._directory(workspace_id, generation)
        for path in home.glob("*.*"):
            sequence, _, kind = path.name.partition(".")
            requested = reported if kind in ("out", "err") else under_way
            if int(sequence) not in requested:
                path.unlink(missing_ok=True)
