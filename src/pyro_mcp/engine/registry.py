"""The registry of workspaces: find one by id or name, its lock, its directory, and the note of what was done in it.

It knows no machine and no verb. Everything of a workspace outside its machine is in `state_dir/workspaces/<id>`.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pyro_mcp.errors import Conflict, DiskFull, NotFound
from pyro_mcp.model.names import SHOWN_MAX, there_are
from pyro_mcp.store.database import Database
from pyro_mcp.store.events import Events
from pyro_mcp.store.workspaces import WorkspaceRow, Workspaces
from pyro_mcp.system.clock import Clock

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_log = logging.getLogger(__name__)


class Registry:
    """The workspaces of one state directory. Every method may be called from any thread."""

    def __init__(self, database: Database, home: Path, clock: Clock) -> None:
        self.table = Workspaces(database)
        self.events = Events(database)
        self.home = home
        self._clock = clock
        self._locks: dict[str, threading.RLock] = {}

    def rows(self) -> list[WorkspaceRow]:
        return self.table.list()

    def find(self, ref: str) -> WorkspaceRow:
        """The workspace with the id `ref`, or the only one with that name.

        Raises `NotFound`, whose hint lists what there is, and `Conflict` for a name that several have.
        """
        rows = [row for row in self.table.list() if row.state == "ready"]
        exact = next((row for row in rows if row.workspace_id == ref), None)
        named = [row for row in rows if row.name == ref.strip()]
        if exact or len(named) == 1:
            return exact or named[0]
        if named:
            ids = ", ".join(row.workspace_id for row in named[:SHOWN_MAX])
            raise Conflict(
                f"cannot tell which workspace {ref!r} is: {len(named)} have that name", hint=f"Use an id: {ids}"
            )
        known = [row.workspace_id + (f" ({row.name})" if row.name else "") for row in rows]
        raise NotFound(f"cannot find the workspace {ref!r}: it does not exist or has expired", hint=there_are(known))

    def handle(self, row: WorkspaceRow) -> str:
        """How a person calls it: by its name where only it has that, and a command line takes it as it is."""
        alone = sum(other.name == row.name for other in self.table.list()) == 1
        return row.name if row.name and alone and _PLAIN.fullmatch(row.name) else row.workspace_id

    def directory(self, workspace_id: str) -> Path:
        """What is kept of the workspace outside its machine."""
        return self.home / workspace_id

    # -- one change at a time

    @contextlib.contextmanager
    def locked(self, ref: str) -> Iterator[WorkspaceRow]:
        """One change of a workspace at a time; the row as it is once the others are done."""
        workspace_id = self.find(ref).workspace_id
        with self.lock(workspace_id):
            yield self.find(workspace_id)

    def lock(self, workspace_id: str) -> threading.RLock:
        return self._locks.setdefault(workspace_id, threading.RLock())

    def held(self, workspace_id: str) -> bool:
        """Whether somebody is changing the workspace."""
        lock = self.lock(workspace_id)
        if not lock.acquire(blocking=False):
            return True
        lock.release()
        return False

    def forget(self, workspace_id: str) -> None:
        """The workspace is gone."""
        self._locks.pop(workspace_id, None)

    # -- what was done

    def touch(self, workspace_id: str) -> None:
        """It is being used now."""
        self.table.touch(workspace_id, self._clock.wall())

    def note(
        self, workspace_id: str, kind: str, detail: dict[str, Any], emit: Callable[[str], None] = _log.warning
    ) -> None:
        """Record what was done, for the summary. What is done is done: a full disk is reported and does not undo it."""
        try:
            self.events.add(workspace_id, kind, detail, self._clock.wall())
        except DiskFull as error:
            emit(f"{kind} of {workspace_id} is done but not in its summary: {error.message}")
