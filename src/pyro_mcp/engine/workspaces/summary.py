"""The body of `summary`: put together from the journal, the events and the live difference, each in bounds."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pyro_mcp.engine.workspaces.view import portrait
from pyro_mcp.errors import Cancelled, PyroError
from pyro_mcp.model.diff import DiffResult
from pyro_mcp.model.service import ALIVE
from pyro_mcp.model.summary import (
    SummaryChange,
    SummaryChanges,
    SummaryCommand,
    SummaryCommands,
    SummaryEdits,
    SummaryServices,
    SummaryShells,
    SummaryTransfer,
    SummaryTransfers,
    WorkspaceSummary,
)
from pyro_mcp.model.workspace import Workspace
from pyro_mcp.store.events import EventRow
from pyro_mcp.store.workspaces import WorkspaceRow

if TYPE_CHECKING:
    from pyro_mcp.engine.engine import Engine
    from pyro_mcp.operations.call import Call

FAILURES, RECENT, CHANGES, PATHS, TRANSFERS, SERVICES = 10, 5, 20, 20, 10, 10
TAIL_LINES, TAIL_CHARACTERS = 5, 400


def summarize(call: Call[Engine], ref: str) -> WorkspaceSummary:
    """The page on the workspace `ref`. Raises `NotFound` and `Conflict`."""
    engine = call.engine
    row = engine.lifecycle.find(ref)
    shown = portrait(engine, row)
    events = engine.lifecycle.events.list(row.workspace_id)
    changes, unknown = _changes(call, row)
    return WorkspaceSummary(
        workspace_id=row.workspace_id,
        name=row.name,
        environment=row.environment,
        state=shown.state,
        execution_mode=shown.execution_mode,
        isolation=shown.isolation,
        since=shown.last_reset_at or shown.created_at,
        reset_count=row.generation,
        last_activity_at=shown.last_activity_at,
        expires_at=shown.expires_at,
        workspace_seed=shown.workspace_seed,
        commands=_commands(engine, row, shown),
        changes=changes,
        changes_unknown=unknown,
        file_edits=_edits(events, "file_write"),
        patches=_edits(events, "patch_apply"),
        syncs=_transfers(events, "sync_push", "destination", "source_path"),
        exports=_transfers(events, "export", "path", "output_path"),
        snapshots=[one for one in engine.snapshots.listing(row.workspace_id) if one.deletable],
        shells=_shells(call, row, events),
        services=_services(engine, row),
        starts=sum(event.kind == "started" for event in events),
        stops=sum(event.kind == "stopped" for event in events),
        network=engine.networks.summary(engine.lifecycle.machine(row)),
    )


def _commands(engine: Engine, row: WorkspaceRow, shown: Workspace) -> SummaryCommands:
    tally = engine.commands.tally(row)
    return SummaryCommands(
        total=shown.command_count,
        succeeded=tally.succeeded,
        failed=tally.failed,
        ended=tally.ended,
        running=tally.running,
        failures=[
            SummaryCommand(**dict(entry.items()), output_tail=_tail(err) or _tail(out))
            for entry, out, err in engine.commands.failures(row, FAILURES)
        ],
        recent=engine.commands.recent(row, RECENT),
    )


def _shells(call: Call[Engine], row: WorkspaceRow, events: Iterable[EventRow]) -> SummaryShells:
    opened = sum(event.kind == "shell_opened" for event in events)
    try:
        found = list(call.engine.shells.listing(call, row.workspace_id))
    except Cancelled:
        raise
    except PyroError:
        # `_changes` asks the same machine, and tells.
        found = []
    return SummaryShells(now=[one for one in found if one.state == "running"], opened=opened)


def _services(engine: Engine, row: WorkspaceRow) -> SummaryServices:
    ended = engine.services.ended(row)
    failed = [one for one in ended if one.state == "failed"]
    return SummaryServices(
        now=[one for one in engine.services.latest(row) if one.state in ALIVE],
        before=[*failed, *(one for one in ended if one.state != "failed")][:SERVICES],
        before_count=len(ended),
        failed=len(failed),
    )


def _tail(text: str) -> str:
    """The last few lines, short."""
    tail = "\n".join(text.rstrip().splitlines()[-TAIL_LINES:])
    return tail if len(tail) <= TAIL_CHARACTERS else "..." + tail[-TAIL_CHARACTERS:]


def _changes(call: Call[Engine], row: WorkspaceRow) -> tuple[SummaryChanges | None, str | None]:
    """What differs from the baseline, or why that cannot be told."""
    from pyro_mcp.engine.agent import Place
    from pyro_mcp.engine.files.diff import diff

    try:
        machine = call.engine.fleet.live(row.machine_id)
    except PyroError:
        return None, "the workspace is not running"
    try:
        return _summed(diff(call, Place(row.workspace_id, machine, lambda kind, detail: None))), None
    except Cancelled:
        raise
    except PyroError as error:
        return None, error.message[:300]


def _summed(found: DiffResult) -> SummaryChanges:
    return SummaryChanges(
        totals=found.summary,
        added_lines=sum(entry.added_lines for entry in found.entries),
        deleted_lines=sum(entry.deleted_lines for entry in found.entries),
        truncated=found.truncated,
        entries=[
            SummaryChange(
                path=entry.path, status=entry.status, added_lines=entry.added_lines, deleted_lines=entry.deleted_lines
            )
            for entry in found.entries[:CHANGES]
        ],
    )


def _edits(events: Iterable[EventRow], kind: str) -> SummaryEdits:
    mine = [event.detail for event in events if event.kind == kind]
    paths = [path for detail in reversed(mine) for path in (detail.get("paths") or [detail.get("path", "")])]
    return SummaryEdits(count=len(mine), paths=list(dict.fromkeys(paths))[:PATHS])


def _transfers(events: Iterable[EventRow], kind: str, inside: str, outside: str) -> SummaryTransfers:
    mine = [event for event in events if event.kind == kind]
    entries = [
        SummaryTransfer(
            path=event.detail[inside],
            host_path=event.detail[outside],
            entry_count=event.detail["entry_count"],
            bytes_written=event.detail["bytes"],
            recorded_at=datetime.fromtimestamp(event.recorded_at, UTC),
        )
        for event in mine[: -TRANSFERS - 1 : -1]
    ]
    return SummaryTransfers(count=len(mine), entries=entries)
