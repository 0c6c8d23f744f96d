"""Snapshots, for a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyro_mcp.model.count import count_of
from pyro_mcp.model.snapshot import SnapshotCreated, SnapshotDeleted, SnapshotList
from pyro_mcp.surfaces.cli.render.changes import draw_skipped
from pyro_mcp.surfaces.cli.render.common import put, size, table
from pyro_mcp.surfaces.cli.render.workspace import when

if TYPE_CHECKING:
    from rich.console import Console


def draw_list(console: Console, result: SnapshotList) -> None:
    """One line per snapshot, the baseline first."""
    rows = table("NAME", "CREATED", "ENTRIES", "SIZE", folds=("CREATED",))
    for one in result:
        held = f"{one.entry_count} changed" if one.kind == "named" else str(one.entry_count)
        rows.add_row(one.snapshot_name, when(one.created_at), held, size(one.bytes_written))
    put(console, rows)


def draw_one(console: Console, result: SnapshotCreated) -> None:
    """That it is kept, and what is not in it."""
    differ = "differs" if result.entry_count == 1 else "differ"
    what = f"{count_of(result.entry_count, 'entry', 'entries')} {differ} from the baseline"
    console.print(f"snapshot {result.snapshot_name} is kept: {what}, {size(result.bytes_written)}")
    draw_skipped(console, result.skipped, result.skipped_count)


def draw_deleted(console: Console, result: SnapshotDeleted) -> None:
    """That it is gone."""
    console.print(f"snapshot {result.snapshot_name} is deleted")
