"""The bodies of the workspace verbs: from a name to a workspace in a machine of its own, and its end.

Everything of a workspace outside its machine is in `state_dir/workspaces/<id>`. Its row announces a creation or a
deletion before anything is made or removed, so that a node that comes after a crash can finish the one or the other.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from pyro_mcp.engine.files.staging import Outgoing
from pyro_mcp.engine.fleet.fleet import Boot
from pyro_mcp.engine.fleet.provision import Births, announced
from pyro_mcp.engine.secrets.store import Values
from pyro_mcp.engine.workspaces.seed import furnish, plant, seed_of
from pyro_mcp.engine.workspaces.view import portrait
from pyro_mcp.errors import Conflict, DiskFull, InvalidArgument, NotFound, PyroError
from pyro_mcp.machines.driver import Machine, WorkspaceMount
from pyro_mcp.model.names import check_labels, check_name
from pyro_mcp.model.workspace import Workspace, WorkspaceDeleted, WorkspaceList
from pyro_mcp.operations.call import Call
from pyro_mcp.operations.encode import encode
from pyro_mcp.store.events import Events
from pyro_mcp.store.machines import MachineRow
from pyro_mcp.store.workspaces import WorkspaceRow
from pyro_mcp.store.workspaces import Workspaces as Table
from pyro_mcp.system.atomic import disk_errors

if TYPE_CHECKING:
    from pyro_mcp.engine.engine import Engine

_log = logging.getLogger(__name__)

SHOWN_MAX = 10
PATIENCE_SECONDS = 1.0
"""How long a removal waits for whoever is changing the workspace before it breaks that off."""


class Lifecycle:
    """The workspaces over one engine. Every method may be called from any thread."""

    def __init__(self, engine: Engine) -> None:
        self.births = Births(engine)
        self.table = Table(engine.database)
        self.events = Events(engine.database)
        self.outgoing = Outgoing(engine.settings.state_dir / "outgoing", engine.faults)
        self._engine = engine
        self._locks: dict[str, threading.RLock] = {}

    # -- looking

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
        known = ", ".join(row.workspace_id + (f" ({row.name})" if row.name else "") for row in rows[:SHOWN_MAX])
        more = f" and {len(rows) - SHOWN_MAX} more" if len(rows) > SHOWN_MAX else ""
        raise NotFound(
            f"cannot find the workspace {ref!r}: it does not exist or has expired",
            hint=f"There are: {known}{more}" if known else "There are none; create one first",
        )

    def directory(self, workspace_id: str) -> Path:
        """What is kept of the workspace outside its machine."""
        return self._engine.settings.state_dir / "workspaces" / workspace_id

    def machine(self, row: WorkspaceRow) -> MachineRow:
        """The machine the workspace lives in. Raises `NotFound` when there is none any more."""
        return self._engine.fleet.get(row.machine_id)

    def live(self, call: Call[Engine], row: WorkspaceRow) -> Machine:
        """The running machine of the workspace. One that has died by itself is started again, with a notice; one that
        was stopped is not: raises `Conflict`, as for one that was reset or deleted since `row` was read."""
        try:
            return self._live(call, row)
        except NotFound:
            now = self.table.get(row.workspace_id)
            if now is not None and (now.state, now.machine_id) == ("ready", row.machine_id):
                # It is something else that is missing, such as the image it was made on.
                raise
            raise Conflict(
                f"cannot use {row.workspace_id}: it was reset or deleted meanwhile",
                hint="Look at it with <<status_workspace>> and try again",
            ) from None

    def _live(self, call: Call[Engine], row: WorkspaceRow) -> Machine:
        state = self.machine(row).state
        if state == "failed":
            call.notice(f"{row.workspace_id} had stopped ({self.machine(row).reason}); starting it again")
            self.start(call, row.workspace_id)
        elif state != "running":
            shown = portrait(self._engine, row).state
            raise Conflict(
                f"cannot use {row.workspace_id}: it is {shown}", hint="Start it with <<start_workspace>> first"
            )
        return self._engine.fleet.live(row.machine_id)

    @contextlib.contextmanager
    def locked(self, ref: str) -> Iterator[WorkspaceRow]:
        """One change of a workspace at a time; the row as it is once the others are done."""
        workspace_id = self.find(ref).workspace_id
        with self._lock(workspace_id):
            yield self.find(workspace_id)

    def _lock(self, workspace_id: str) -> threading.RLock:
        return self._locks.setdefault(workspace_id, threading.RLock())

    @contextlib.contextmanager
    def _for_its_end(self, workspace_id: str, why: str) -> Iterator[None]:
        """The workspace's lock. Whoever holds it may be listening to a guest that never comes to an end: after a moment
        that is broken off."""
        lock = self._lock(workspace_id)
        if not lock.acquire(timeout=PATIENCE_SECONDS):
            row = self.table.get(workspace_id)
            if row is not None and row.state == "ready":
                self._engine.fleet.hang_up(row.machine_id, f"the workspace is being removed: {why}")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    # -- the verbs

    def create(
        self,
        call: Call[Engine],
        *,
        environment: str,
        seed_path: str | None,
        name: str | None,
        labels: dict[str, str] | None,
        network: dict[str, Any],
        vcpu_count: int,
        mem_mib: int,
        scratch_mib: int,
        ttl_seconds: int,
        allow_host_compat: bool,
        secrets: dict[str, str] | None = None,
        secret_files: dict[str, str] | None = None,
    ) -> Workspace:
        """Make a workspace and start it. What fails or is cancelled on the way leaves nothing. `network` is as
        `Networks.asked` gives it."""
        name = None if name is None else check_name(name)
        labels = check_labels(labels or {})
        values = Values(secrets, secret_files)
        boot = self.births.prepare(
            call, environment, vcpu_count=vcpu_count, mem_mib=mem_mib, allow_host_compat=allow_host_compat
        )
        self._engine.networks.check(call, boot.driver.capabilities, network)
        machine = self.births.row(
            environment,
            boot,
            one_shot=False,
            vcpu_count=vcpu_count,
            mem_mib=mem_mib,
            scratch_mib=scratch_mib,
            ttl_seconds=ttl_seconds,
            workspace_id=f"ws-{token_hex(6)}",
            network=network,
        )
        row = announced(machine, name, labels, allow_host_compat)
        # Held throughout: one that expires meanwhile is removed as soon as it is whole.
        with self._lock(row.workspace_id):
            self.table.insert(row)
            self._engine.faults("workspace announced")
            try:
                self._make(call, row, machine, boot, seed_path, values)
            except BaseException:
                self._remove(row.workspace_id, "it could not be created")
                raise
            return portrait(self._engine, self.find(row.workspace_id))

    def listing(self) -> WorkspaceList:
        found = [portrait(self._engine, row) for row in self.table.list() if row.state != "deleting"]
        return WorkspaceList(count=len(found), workspaces=found)

    def status(self, ref: str) -> Workspace:
        return portrait(self._engine, self.find(ref))

    def update(
        self,
        ref: str,
        *,
        name: str | None,
        clear_name: bool,
        labels: dict[str, str] | None,
        clear_labels: list[str] | None,
    ) -> Workspace:
        """Change name and labels. Raises `InvalidArgument` when there is nothing to change or two wishes collide."""
        wished = check_labels(labels or {})
        dropped = set(clear_labels or ())
        if name is not None and clear_name:
            raise InvalidArgument(
                "cannot update the workspace: its name is both set and cleared",
                hint="Give <<update_workspace.name>> or <<update_workspace.clear_name>>",
            )
        if name is None and not clear_name and not wished and not dropped:
            raise InvalidArgument(
                "cannot update the workspace: nothing to change",
                hint="Give <<update_workspace.name>>, <<update_workspace.clear_name>>, <<update_workspace.labels>> or"
                " <<update_workspace.clear_labels>>",
            )
        if both := dropped & set(wished):
            raise InvalidArgument(f"cannot update the workspace: {min(both)!r} is both set and cleared")
        with self.locked(ref) as row:
            kept = {key: value for key, value in row.labels.items() if key not in dropped}
            new_name = None if clear_name else row.name if name is None else check_name(name)
            now = self._engine.clock.wall()
            self.table.describe(row.workspace_id, new_name, check_labels({**kept, **wished}), now)
            return self.status(row.workspace_id)

    def start(self, call: Call[Engine], ref: str) -> Workspace:
        """Start a stopped workspace on the disk it had. One that runs is left as it is."""
        with self.locked(ref) as row:
            machine = self.machine(row)
            if machine.state != "running":
                boot = self.births.again(call, machine)
                call.progress("starting the machine", None)
                self._engine.fleet.start(row.machine_id, self.housed(row, boot), call.progress)
                self._engine.faults("workspace started")
                self.note(row.workspace_id, "started", {}, call.notice)
            return self.status(row.workspace_id)

    def stop(self, ref: str) -> Workspace:
        """Power off; the workspace's files, snapshots and history stay."""
        with self.locked(ref) as row:
            if self.machine(row).state == "running":
                self._engine.fleet.stop(row.machine_id)
                self._engine.commands.join(row.workspace_id)
                self._engine.services.machine_ended(row.machine_id)
                self._engine.faults("workspace stopped")
                self.note(row.workspace_id, "stopped", {})
            return self.status(row.workspace_id)

    def delete(self, ref: str) -> WorkspaceDeleted:
        workspace_id = self.find(ref).workspace_id
        gone = self._remove(workspace_id, "asked to")
        return WorkspaceDeleted(workspace_id=workspace_id, deleted=gone, reason="asked to")

    def note(self, workspace_id: str, kind: str, detail: dict[str, Any], tell: Callable[[str], None] = print) -> None:
        """Record what was done, for the summary. What is done is done: a full disk is told and does not undo it."""
        try:
            self.events.add(workspace_id, kind, detail, self._engine.clock.wall())
        except DiskFull as error:
            tell(f"{kind} of {workspace_id} is done but not in its summary: {error.message}")

    # -- time

    def next_expiry(self) -> float | None:
        """Seconds until the next workspace expires, at most 0 when one has; None without workspaces."""
        return min((self._remaining(row) for row in self.table.list()), default=None)

    def reap(self) -> list[str]:
        """Remove every workspace whose time is up; their ids. One that resists does not spare the others, and for one
        that is being made they do not wait."""
        gone = []
        for row in self.table.list():
            if self._remaining(row) <= 0 and not (row.state == "creating" and self._held(row.workspace_id)):
                try:
                    if self._remove(row.workspace_id, f"its {row.ttl_seconds} s to live have passed"):
                        gone.append(row.workspace_id)
                except PyroError as error:
                    _log.warning(f"cannot reap {row.workspace_id}: {error}")
        return gone

    def _held(self, workspace_id: str) -> bool:
        """Whether somebody is changing the workspace."""
        lock = self._lock(workspace_id)
        if not lock.acquire(blocking=False):
            return True
        lock.release()
        return False

    def _remaining(self, row: WorkspaceRow) -> float:
        return self._engine.clock.remaining(row.boot_id, row.deadline_ns, row.expires_at)

    # -- after a crash

    def settle(self) -> None:
        """A node has come: finish what its predecessor had begun. One that resists is told and left as it is."""
        self.outgoing.sweep()
        for row in self.table.list():
            try:
                if row.state != "ready":
                    self._remove(row.workspace_id, "its creation or deletion was interrupted")
                else:
                    self._tidy(row)
            except PyroError as error:
                _log.warning(f"cannot settle {row.workspace_id}: {error}")
        self._remove_unknown()
        self._engine.commands.settle()
        self._engine.services.settle()

    def _tidy(self, row: WorkspaceRow) -> None:
        """Remove what an interrupted reset or snapshot has left."""
        for machine in self._engine.fleet.rows():
            if machine.workspace_id == row.workspace_id and machine.machine_id != row.machine_id:
                self._engine.fleet.remove(machine.machine_id, "a reset was interrupted, or done")
        self.forget_history(row)
        self._engine.snapshots.tidy(row)

    def forget_history(self, row: WorkspaceRow) -> None:
        """Remove the output of commands from before the last reset."""
        for old in (self.directory(row.workspace_id) / "journal").glob("*"):
            if old.name != str(row.generation):
                shutil.rmtree(old, ignore_errors=True)

    def _remove_unknown(self) -> None:
        """Machines and directories of workspaces without a row: the row comes first and goes last."""
        known = {row.workspace_id for row in self.table.list()}
        for machine in self._engine.fleet.rows():
            if machine.workspace_id is not None and machine.workspace_id not in known:
                self._engine.fleet.remove(machine.machine_id, "its workspace is gone")
        home = self.directory("any").parent
        for directory in home.iterdir() if home.is_dir() else ():
            if directory.name not in known:
                _log.info(f"removing {directory}, which no workspace owns")
                shutil.rmtree(directory, ignore_errors=True)

    # -- parts

    def housed(self, row: WorkspaceRow, boot: Boot, *, load: bool = False) -> Boot:
        """`boot` with this workspace's seed and its place in the guest."""
        return replace(boot, seed=seed_of(self.directory(row.workspace_id)), workspace=WorkspaceMount(load))

    def _make(
        self,
        call: Call[Engine],
        row: WorkspaceRow,
        machine: MachineRow,
        boot: Boot,
        seed_path: str | None,
        values: Values,
    ) -> None:
        with disk_errors(f"make the workspace {row.workspace_id}"):
            self.directory(row.workspace_id).mkdir(mode=0o700, parents=True)
        self._engine.faults("workspace directory made")
        self._engine.secrets.keep(row.workspace_id, values)
        seed = plant(call, self.directory(row.workspace_id), seed_path, boot.driver.capabilities)
        self._engine.faults("workspace seeded")
        call.check()
        self._engine.fleet.admit(machine)
        self._engine.images.lease(machine)
        call.progress("starting the machine", None)
        housed = self.housed(row, boot)
        furnish(call, self._engine.fleet.start(machine.machine_id, housed, call.progress), housed.seed, None)
        call.check()
        self._engine.faults("workspace up")
        self.table.ready(row.workspace_id, encode(seed))
        self._engine.faults("workspace ready")

    def _remove(self, workspace_id: str, why: str) -> bool:
        """End a workspace in whatever state and erase everything of it; False when it was gone already."""
        with self._for_its_end(workspace_id, why):
            if self.table.get(workspace_id) is None:
                return False
            self.table.deleting(workspace_id)
            self._engine.faults("workspace deleting")
            for machine in self._engine.fleet.rows():
                if machine.workspace_id == workspace_id:
                    self._engine.fleet.remove(machine.machine_id, why)
                    self._engine.fleet.forget_end(machine.machine_id)
            self._engine.commands.join(workspace_id)
            with disk_errors(f"remove the workspace {workspace_id}"), contextlib.suppress(FileNotFoundError):
                shutil.rmtree(self.directory(workspace_id))
            self._engine.secrets.forget(workspace_id)
            self._engine.faults("workspace erased")
            self.table.delete(workspace_id)
            self._engine.faults("workspace gone")
        self._locks.pop(workspace_id, None)
        return True
