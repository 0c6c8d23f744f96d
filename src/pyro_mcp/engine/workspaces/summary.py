"""The verb `summary`: put together from the journal, the events and the live difference, each in bounds."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from pyro_mcp.engine.commands.manager import CommandManager
from pyro_mcp.engine.files.diff import diff
from pyro_mcp.engine.fleet.fleet import Fleet
from pyro_mcp.engine.fleet.networks import Networks
from pyro_mcp.engine.registry import Registry
from pyro_mcp.engine.services.manager import ServiceManager
from pyro_mcp.engine.session import Session, Sessions
from pyro_mcp.engine.shells.manager import ShellManager
from pyro_mcp.engine.workspaces.snapshots import SnapshotManager
from pyro_mcp.engine.workspaces.view import WorkspaceView
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
from pyro_mcp.operations.call import Call
from pyro_mcp.store.events import EventRow
from pyro_mcp.store.workspaces import WorkspaceRow

FAILURES, RECENT, CHANGES, PATHS, TRANSFERS, SERVICES = 10, 5, 20, 20, 10, 10
TAIL_LINES, TAIL_CHARACTERS = 5, 400


class Summaries:
    """Puts the pages together."""

    def __init__(
        self,
        registry: Registry,
        sessions: Sessions,
        fleet: Fleet,
        networks: Networks,
        commands: CommandManager,
        services: ServiceManager,
        shells: ShellManager,
        snapshots: SnapshotManager,
        view: WorkspaceView,
    ) -> None:
        self._registry = registry
        self._sessions = sessions
        self._fleet = fleet
        self._networks = networks
        self._commands = commands
        self._services = services
        self._shells = shells
        self._snapshots = snapshots
        self._view = view

    def summarize(self, call: Call[Any], ref: str) -> WorkspaceSummary:
        """The page on the workspace `ref`. Raises `NotFound` and `Conflict`."""
        row = self._registry.find(ref)
        shown = self._view.to_model(row)
        events = self._registry.events.list(row.workspace_id)
        changes, unknown = self._changes(call, row)
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
            commands=self._tally(row, shown),
            changes=changes,
            changes_unknown=unknown,
            file_edits=_edits(events, "file_write"),
            patches=_edits(events, "patch_apply"),
            syncs=_transfers(events, "sync_push", "destination", "source_path"),
            exports=_transfers(events, "export", "path", "output_path"),
            snapshots=[one for one in self._snapshots.listing(row.workspace_id) if one.deletable],
            shells=self._open_shells(call, row, events),
            services=self._service_runs(row),
            starts=sum(event.kind == "started" for event in events),
            stops=sum(event.kind == "stopped" for event in events),
            network=self._networks.summary(self._sessions.machine_row(row)),
        )

    def _tally(self, row: WorkspaceRow, shown: Workspace) -> SummaryCommands:
        tally = self._commands.tally(row)
        return SummaryCommands(
            total=shown.command_count,
            succeeded=tally.succeeded,
            failed=tally.failed,
            ended=tally.ended,
            running=tally.running,
            not_started=tally.not_started,
            failures=[
                SummaryCommand(**dict(entry.items()), output_tail=_tail(err) or _tail(out))
                for entry, out, err in self._commands.failures(row, FAILURES)
            ],
            recent=self._commands.recent(row, RECENT),
        )

    def _open_shells(self, call: Call[Any], row: WorkspaceRow, events: Iterable[EventRow]) -> SummaryShells:
        opened = sum(event.kind == "shell_opened" for event in events)
        try:
            found = list(self._shells.listing(call, row.workspace_id))
        except Cancelled:
            raise
        except PyroError:
            # `_changes` asks the same machine, and says why.
            found = []
        return SummaryShells(now=[one for one in found if one.state == "running"], opened=opened)

    def _service_runs(self, row: WorkspaceRow) -> SummaryServices:
        ended = self._services.ended(row)
        failed = [one for one in ended if one.state == "failed"]
        return SummaryServices(
            now=[one for one in self._services.latest(row) if one.state in ALIVE],
            before=[*failed, *(one for one in ended if one.state != "failed")][:SERVICES],
            before_count=len(ended),
            failed=len(failed),
        )

    def _changes(self, call: Call[Any], row: WorkspaceRow) -> tuple[SummaryChanges | None, str | None]:
        """What differs from the baseline, or why that is unknown."""
        try:
            machine = self._fleet.live(row.machine_id)
        except PyroError:
            return None, "the workspace is not running"
        try:
            return _summed(diff(call, Session(row.workspace_id, machine, lambda kind, detail: None))), None
        except Cancelled:
            raise
        except PyroError as error:
            return None, error.message[:300]


def _tail(text: str) -> str:
    """The last few lines, short."""
    tail = "\n".join(text.rstrip().splitlines()[-TAIL_LINES:])
    return tail if len(tail) <= TAIL_CHARACTERS else "..." + tail[-TAIL_CHARACTERS:]


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
