"""Snapshot results: checkpoints of a workspace."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from pyro_mcp.model.page import ListPage
from pyro_mcp.model.result import Result
from pyro_mcp.model.sync import Skipped


@dataclass(frozen=True, kw_only=True)
class Snapshot(Result):
    """A checkpoint. The `baseline` is what the workspace started with; it is always there and cannot be deleted.

    A named one holds what differed from the baseline: `entry_count` entries with `bytes_written` bytes of content.
    """

    snapshot_name: str
    kind: Literal["baseline", "named"]
    created_at: datetime
    entry_count: int
    bytes_written: int
    deletable: bool


@dataclass(frozen=True, kw_only=True)
class SnapshotCreated(Snapshot):
    """A checkpoint that was just made. `skipped` names the first of the `skipped_count` entries that it does not hold,
    such as FIFOs and devices, or that changed while they were read."""

    skipped_count: int = 0
    skipped: list[Skipped] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class SnapshotList(ListPage):
    """All snapshots of a workspace, the baseline first. Iterating goes over them."""

    workspace_id: str
    snapshots: list[Snapshot]

    def __iter__(self) -> Iterator[Snapshot]:
        return iter(self.snapshots)

    def __len__(self) -> int:
        return len(self.snapshots)


@dataclass(frozen=True, kw_only=True)
class SnapshotDeleted(Result):
    """A snapshot that is gone."""

    workspace_id: str
    snapshot_name: str
    deleted: bool
