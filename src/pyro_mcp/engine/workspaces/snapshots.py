"""The snapshot verbs and reset.

A snapshot is one file outside the guest's reach: what differs from the baseline, as entries, known by its SHA-256. A
reset builds another machine beside the old one and moves the workspace into it in one transaction, so until then the
old one is what there is.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import IO, Any

from pyro_mcp.engine.agent import AgentClient
from pyro_mcp.engine.commands.manager import CommandManager
from pyro_mcp.engine.faults import Faults
from pyro_mcp.engine.files.packed import Packed
from pyro_mcp.engine.fleet.fleet import Fleet
from pyro_mcp.engine.fleet.images import Images
from pyro_mcp.engine.fleet.provision import Provisioner
from pyro_mcp.engine.registry import Registry
from pyro_mcp.engine.seed import populate, seed_of
from pyro_mcp.engine.session import Sessions
from pyro_mcp.engine.workspaces.view import WorkspaceView
from pyro_mcp.errors import Conflict, InvalidArgument, MachineFailed, NotFound, PyroError
from pyro_mcp.machines.driver import Machine
from pyro_mcp.model.names import BASELINE, there_are
from pyro_mcp.model.snapshot import Snapshot, SnapshotCreated, SnapshotDeleted, SnapshotList
from pyro_mcp.model.workspace import ResetWorkspace, WorkspaceReset, WorkspaceSeed
from pyro_mcp.operations.call import Call
from pyro_mcp.operations.encode import decode
from pyro_mcp.protocol.entries import EntryDecoder, EntryError
from pyro_mcp.store.database import Database
from pyro_mcp.store.snapshots import SnapshotRow
from pyro_mcp.store.snapshots import SnapshotTable as Table
from pyro_mcp.store.workspaces import WorkspaceRow
from pyro_mcp.system.atomic import disk_errors, make_directory, sync_directory
from pyro_mcp.system.clock import Clock

_log = logging.getLogger(__name__)

SNAPSHOTS_MAX = 64
MIB = 1024 * 1024
_PIECE = 1024 * 1024


class SnapshotManager:
    """The checkpoints of all workspaces."""

    def __init__(
        self,
        database: Database,
        registry: Registry,
        sessions: Sessions,
        fleet: Fleet,
        provisioner: Provisioner,
        images: Images,
        commands: CommandManager,
        view: WorkspaceView,
        clock: Clock,
        faults: Faults,
    ) -> None:
        self._registry = registry
        self._sessions = sessions
        self._fleet = fleet
        self._provisioner = provisioner
        self._images = images
        self._commands = commands
        self._view = view
        self._clock = clock
        self._faults = faults
        self._table = Table(database)

    # -- the verbs

    def create(self, call: Call[Any], ref: str, name: str) -> SnapshotCreated:
        """Keep the present state as `name`. Raises `Conflict` when there is one of that name."""
        _refuse_baseline(name, "create")
        with self._registry.locked(ref) as workspace:
            self._refuse_taken(workspace, name)
            machine = self._sessions.machine(call, workspace)
            call.progress("saving /workspace", None)
            row, packed = self._saved(call, workspace, machine, name)
            kept = False
            try:
                kept = self._table.insert(row)
            finally:
                if not kept:
                    self._file(row).unlink(missing_ok=True)
            if not kept:
                raise _taken(workspace, name)
            self._faults("snapshot recorded")
            detail = {"snapshot_name": name, "entry_count": row.entry_count, "bytes": row.bytes_written}
            self._registry.note(workspace.workspace_id, "snapshot", detail, call.notice)
        created = dict(_to_model(row).items())
        return SnapshotCreated(**created, skipped_count=packed.left_out_count, skipped=packed.left_out)

    def listing(self, ref: str) -> SnapshotList:
        workspace = self._registry.find(ref)
        found = [_baseline(workspace), *map(_to_model, self._table.list(workspace.workspace_id))]
        return SnapshotList(workspace_id=workspace.workspace_id, count=len(found), snapshots=found)

    def delete(self, ref: str, name: str) -> SnapshotDeleted:
        _refuse_baseline(name, "delete")
        with self._registry.locked(ref) as workspace:
            row = self._find(workspace, name)
            self._table.delete(workspace.workspace_id, name)
            self._faults("snapshot forgotten")
            with disk_errors(f"remove the snapshot {name}"):
                self._file(row).unlink(missing_ok=True)
        return SnapshotDeleted(workspace_id=workspace.workspace_id, snapshot_name=name, deleted=True)

    def reset(self, call: Call[Any], ref: str, name: str) -> ResetWorkspace:
        """Replace the sandbox by a fresh one with /workspace as it was. What fails leaves the old one as it is."""
        with self._registry.locked(ref) as workspace:
            row = None if name == BASELINE else self._find(workspace, name)
            if row is not None:
                call.progress(f"checking the snapshot {name}", None)
                self._verify(row)
            fresh = self._fresh_machine(call, workspace, row)
            try:
                call.check()
                self._registry.table.reset(workspace.workspace_id, fresh, self._clock.wall())
            except BaseException:
                self._discard(fresh, "the reset failed")
                raise
            self._faults("reset recorded")
            self._discard(workspace.machine_id, "the workspace was reset")
            self._commands.join(workspace.workspace_id)
            renewed = self._registry.find(workspace.workspace_id)
            self._commands.forget_history(renewed)
            done = _described(renewed, row)
            return ResetWorkspace(**dict(self._view.to_model(renewed).items()), workspace_reset=done)

    # -- after a crash

    def tidy(self, workspace: WorkspaceRow) -> None:
        """Remove files that no snapshot owns: saved halfway, or forgotten just before the end."""
        known = {row.file for row in self._table.list(workspace.workspace_id)}
        for path in self._home(workspace.workspace_id).glob("*"):
            if path.name not in known:
                path.unlink(missing_ok=True)

    # -- saving

    def _saved(
        self, call: Call[Any], workspace: WorkspaceRow, machine: Machine, name: str
    ) -> tuple[SnapshotRow, Packed]:
        """The present state in a durable file: the row that will make it a snapshot, and what is not in it."""
        home = self._home(workspace.workspace_id)
        file = f"{secrets.token_hex(8)}.entries"
        try:
            with disk_errors(f"save the snapshot {name}"):
                make_directory(home)
                receiver = _Receiver(home / file, max_bytes=(workspace.scratch_mib + 64) * MIB)
                packed = receiver.receive(call, machine)
                sync_directory(home)
            self._faults("snapshot saved")
        except BaseException:
            (home / file).unlink(missing_ok=True)
            raise
        row = SnapshotRow(
            workspace_id=workspace.workspace_id,
            name=name,
            file=file,
            sha256=receiver.sha256,
            entry_count=receiver.entry_count,
            bytes_written=receiver.bytes_written,
            created_at=self._clock.wall(),
        )
        return row, packed

    def _verify(self, row: SnapshotRow) -> None:
        digest = hashlib.sha256()
        with disk_errors(f"read the snapshot {row.name}"), self._file(row).open("rb") as file:
            while piece := file.read(_PIECE):
                digest.update(piece)
        if digest.hexdigest() != row.sha256:
            raise PyroError(
                f"cannot restore the snapshot {row.name}: its file was damaged or altered",
                hint="Delete it, and reset to another one or to the baseline",
            )

    # -- resetting

    def _fresh_machine(self, call: Call[Any], workspace: WorkspaceRow, snapshot: SnapshotRow | None) -> str:
        """The id of a machine like the workspace's, up and furnished. On failure nothing of it is left."""
        old = self._sessions.machine_row(workspace)
        boot = self._provisioner.again(call, old)
        row = self._provisioner.row(
            workspace.environment,
            boot,
            workspace.size,
            one_shot=False,
            ttl_seconds=workspace.ttl_seconds,
            workspace_id=workspace.workspace_id,
            network=workspace.network,
        )
        self._fleet.admit(row, replacing=old.machine_id)
        try:
            self._images.lease(row)
            call.progress("building a fresh machine", None)
            mounted = self._sessions.with_mounts(workspace, boot, load=snapshot is not None)
            machine = self._fleet.start(row.machine_id, mounted, call.progress)
            call.progress("restoring /workspace", None)
            seed = seed_of(self._registry.directory(workspace.workspace_id))
            populate(call, machine, seed, None if snapshot is None else self._file(snapshot))
            self._faults("reset furnished")
        except BaseException:
            self._discard(row.machine_id, "the reset failed")
            raise
        return row.machine_id

    def _discard(self, machine_id: str, why: str) -> None:
        """Remove a machine that the workspace does not live in. One that resists is left to the next node."""
        try:
            self._fleet.remove(machine_id, why)
            self._fleet.forget_end(machine_id)
        except PyroError as error:
            _log.warning(f"cannot remove {machine_id}: {error}")

    # -- small things

    def _find(self, workspace: WorkspaceRow, name: str) -> SnapshotRow:
        row = self._table.get(workspace.workspace_id, name)
        if row is None:
            known = [BASELINE, *(other.name for other in self._table.list(workspace.workspace_id))]
            raise NotFound(
                f"cannot find the snapshot {name!r} of {workspace.workspace_id}: it does not exist",
                hint=there_are(known),
            )
        return row

    def _refuse_taken(self, workspace: WorkspaceRow, name: str) -> None:
        if self._table.get(workspace.workspace_id, name) is not None:
            raise _taken(workspace, name)
        if len(self._table.list(workspace.workspace_id)) >= SNAPSHOTS_MAX:
            raise Conflict(
                f"cannot create the snapshot {name!r}: {workspace.workspace_id} has {SNAPSHOTS_MAX} already",
                hint="Delete some",
            )

    def _home(self, workspace_id: str) -> Path:
        return self._registry.directory(workspace_id) / "snapshots"

    def _file(self, row: SnapshotRow) -> Path:
        return self._home(row.workspace_id) / row.file


class _Receiver:
    """Writes what an agent sends as its saved workspace, and believes nothing of it: counts are the host's."""

    def __init__(self, path: Path, *, max_bytes: int) -> None:
        self.entry_count = 0
        self.bytes_written = 0
        self._decoder = EntryDecoder(max_bytes=max_bytes)
        self._digest = hashlib.sha256()
        self._path = path

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def receive(self, call: Call[Any], machine: Machine) -> Packed:
        """What the agent left out. Raises `MachineFailed` for a sequence that breaks the rules."""
        whole = {"path": "/workspace", "still": True}
        verb, params = ("overlay_save", {}) if machine.capabilities.overlay else ("tree_pack", whole)
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            try:
                packed = AgentClient(machine).request(call, verb, params, Packed, on_data=partial(self._take, file))
                self._decoder.close()
            except EntryError as error:
                raise MachineFailed(f"cannot save /workspace: the guest's agent broke the rules: {error}") from None
            file.flush()
            os.fsync(file.fileno())
        self.entry_count, self.bytes_written = self._decoder.count, self._decoder.bytes
        return packed

    def _take(self, file: IO[bytes], message: bytes) -> None:
        for _ in self._decoder.feed(message):
            pass
        self._digest.update(message)
        file.write(message)


def _baseline(workspace: WorkspaceRow) -> Snapshot:
    seed = decode(workspace.seed, WorkspaceSeed)
    return Snapshot(
        snapshot_name=BASELINE,
        kind="baseline",
        created_at=datetime.fromtimestamp(workspace.created_at, UTC),
        entry_count=seed.entry_count,
        bytes_written=seed.bytes_written,
        deletable=False,
    )


def _to_model(row: SnapshotRow) -> Snapshot:
    return Snapshot(
        snapshot_name=row.name,
        kind="named",
        created_at=datetime.fromtimestamp(row.created_at, UTC),
        entry_count=row.entry_count,
        bytes_written=row.bytes_written,
        deletable=True,
    )


def _described(workspace: WorkspaceRow, row: SnapshotRow | None) -> WorkspaceReset:
    shown = _baseline(workspace) if row is None else _to_model(row)
    return WorkspaceReset(
        snapshot_name=shown.snapshot_name,
        kind=shown.kind,
        destination="/workspace",
        entry_count=shown.entry_count,
        bytes_written=shown.bytes_written,
    )


def _refuse_baseline(name: str, verb: str) -> None:
    if name == BASELINE:
        raise InvalidArgument(
            f"cannot {verb} the snapshot {BASELINE!r}: it is what the workspace started with",
            hint="Choose another name" if verb == "create" else "It is always there; delete one that you have made",
        )


def _taken(workspace: WorkspaceRow, name: str) -> Conflict:
    return Conflict(
        f"cannot create the snapshot {name!r}: {workspace.workspace_id} has one of that name",
        hint="Delete it first, or choose another name",
    )
