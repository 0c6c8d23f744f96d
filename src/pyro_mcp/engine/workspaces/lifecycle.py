"""The workspace verbs: create a workspace in a machine of its own, start, stop, update and delete it.

Everything of a workspace outside its machine is in `state_dir/workspaces/<id>`. Its row records a creation or a
deletion before anything is made or removed, so the next node after a crash can finish either.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterator
from secrets import token_hex
from typing import Any

from pyro_mcp.engine.commands.manager import CommandManager
from pyro_mcp.engine.faults import Faults
from pyro_mcp.engine.fleet.fleet import BootSpec, Fleet
from pyro_mcp.engine.fleet.images import Images
from pyro_mcp.engine.fleet.networks import Networks
from pyro_mcp.engine.fleet.provision import Provisioner, planned_row
from pyro_mcp.engine.registry import Registry
from pyro_mcp.engine.secrets.store import SecretManager, Values
from pyro_mcp.engine.seed import create_seed, populate
from pyro_mcp.engine.services.manager import ServiceManager
from pyro_mcp.engine.session import Sessions
from pyro_mcp.engine.staging import ExportStaging
from pyro_mcp.engine.workspaces.snapshots import SnapshotManager
from pyro_mcp.engine.workspaces.view import WorkspaceView
from pyro_mcp.errors import DiskFull, InvalidArgument, PyroError
from pyro_mcp.model.names import check_labels, check_name
from pyro_mcp.model.size import MachineSize
from pyro_mcp.model.workspace import Workspace, WorkspaceDeleted, WorkspaceList
from pyro_mcp.operations.call import Call
from pyro_mcp.operations.encode import encode
from pyro_mcp.store.machines import MachineRow
from pyro_mcp.store.workspaces import WorkspaceRow
from pyro_mcp.system.atomic import disk_errors
from pyro_mcp.system.clock import Clock

_log = logging.getLogger(__name__)

PATIENCE_SECONDS = 1.0
"""How long a removal waits for whoever is changing the workspace before it breaks that off."""


class Lifecycle:
    """The lives of all workspaces. Every method may be called from any thread."""

    def __init__(
        self,
        registry: Registry,
        sessions: Sessions,
        fleet: Fleet,
        provisioner: Provisioner,
        images: Images,
        networks: Networks,
        secrets: SecretManager,
        commands: CommandManager,
        services: ServiceManager,
        snapshots: SnapshotManager,
        staging: ExportStaging,
        view: WorkspaceView,
        clock: Clock,
        faults: Faults,
    ) -> None:
        self._registry = registry
        self._sessions = sessions
        self._fleet = fleet
        self._provisioner = provisioner
        self._images = images
        self._networks = networks
        self._secrets = secrets
        self._commands = commands
        self._services = services
        self._snapshots = snapshots
        self._staging = staging
        self._view = view
        self._clock = clock
        self._faults = faults

    @contextlib.contextmanager
    def _for_its_end(self, workspace_id: str, why: str) -> Iterator[None]:
        """The workspace's lock. Whoever holds it may be listening to a guest that never comes to an end: after a moment
        that is broken off."""
        lock = self._registry.lock(workspace_id)
        if not lock.acquire(timeout=PATIENCE_SECONDS):
            row = self._registry.table.get(workspace_id)
            if row is not None and row.state == "ready":
                self._fleet.disconnect(row.machine_id, f"the workspace is being removed: {why}")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def create(
        self,
        call: Call[Any],
        *,
        environment: str,
        seed_path: str | None,
        name: str | None,
        labels: dict[str, str] | None,
        network: dict[str, Any],
        size: MachineSize,
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
        boot = self._provisioner.prepare(call, environment, size, allow_host_compat=allow_host_compat)
        self._networks.check(call, boot.driver.capabilities, network)
        machine = self._provisioner.row(
            environment,
            boot,
            size,
            one_shot=False,
            ttl_seconds=ttl_seconds,
            workspace_id=f"ws-{token_hex(6)}",
            network=network,
        )
        row = planned_row(machine, name, labels, allow_host_compat)
        # Held throughout: one that expires meanwhile is removed as soon as it is whole.
        with self._registry.lock(row.workspace_id):
            self._registry.table.insert(row)
            self._faults("workspace announced")
            try:
                self._make(call, row, machine, boot, seed_path, values)
            except BaseException:
                self._remove(row.workspace_id, "it could not be created")
                raise
            return self._view.to_model(self._registry.find(row.workspace_id))

    def listing(self) -> WorkspaceList:
        found = [self._view.to_model(row) for row in self._registry.table.list() if row.state != "deleting"]
        return WorkspaceList(count=len(found), workspaces=found)

    def status(self, ref: str) -> Workspace:
        return self._view.to_model(self._registry.find(ref))

    def update(
        self,
        ref: str,
        *,
        name: str | None,
        clear_name: bool,
        labels: dict[str, str] | None,
        clear_labels: list[str] | None,
    ) -> Workspace:
        """Change name and labels. Raises `InvalidArgument` when there is nothing to change or two requests collide."""
        requested = check_labels(labels or {})
        dropped = set(clear_labels or ())
        if name is not None and clear_name:
            raise InvalidArgument(
                "cannot update the workspace: its name is both set and cleared",
                hint="Give <<update_workspace.name>> or <<update_workspace.clear_name>>",
            )
        if name is None and not clear_name and not requested and not dropped:
            raise InvalidArgument(
                "cannot update the workspace: nothing to change",
                hint="Give <<update_workspace.name>>, <<update_workspace.clear_name>>, <<update_workspace.labels>> or"
                " <<update_workspace.clear_labels>>",
            )
        if both := dropped & set(requested):
            raise InvalidArgument(f"cannot update the workspace: {min(both)!r} is both set and cleared")
        with self._registry.locked(ref) as row:
            kept = {key: value for key, value in row.labels.items() if key not in dropped}
            new_name = None if clear_name else row.name if name is None else check_name(name)
            now = self._clock.wall()
            self._registry.table.describe(row.workspace_id, new_name, check_labels({**kept, **requested}), now)
            return self.status(row.workspace_id)

    def start(self, call: Call[Any], ref: str) -> Workspace:
        """Start a stopped workspace on the disk it had. One that runs is left as it is."""
        return self.status(self._sessions.start(call, ref).workspace_id)

    def stop(self, ref: str) -> Workspace:
        """Power off; the workspace's files, snapshots and history stay."""
        with self._registry.locked(ref) as row:
            if self._sessions.machine_row(row).state == "running":
                self._fleet.stop(row.machine_id)
                self._commands.join(row.workspace_id)
                self._services.machine_ended(row.machine_id)
                self._faults("workspace stopped")
                self._registry.note(row.workspace_id, "stopped", {})
            return self.status(row.workspace_id)

    def delete(self, ref: str) -> WorkspaceDeleted:
        workspace_id = self._registry.find(ref).workspace_id
        gone = self._remove(workspace_id, "asked to")
        return WorkspaceDeleted(workspace_id=workspace_id, deleted=gone, reason="asked to")

    # -- time

    def next_expiry(self) -> float | None:
        """Seconds until the next workspace expires, at most 0 when one has; None without workspaces."""
        return min((self._remaining(row) for row in self._registry.table.list()), default=None)

    def reap(self) -> list[str]:
        """Remove every workspace whose time is up; their ids. One that resists does not spare the others, and for one
        that is being made they do not wait."""
        gone = []
        for row in self._registry.table.list():
            if self._remaining(row) <= 0 and not (row.state == "creating" and self._registry.held(row.workspace_id)):
                try:
                    if self._remove(row.workspace_id, f"its {row.ttl_seconds} s to live have passed"):
                        gone.append(row.workspace_id)
                except PyroError as error:
                    _log.warning(f"cannot reap {row.workspace_id}: {error}")
        return gone

    def _remaining(self, row: WorkspaceRow) -> float:
        return self._clock.remaining(row.boot_id, row.deadline_ns, row.expires_at)

    # -- after a crash

    def recover(self) -> None:
        """At the node's start: finish what its predecessor began. What fails is logged and left as it is."""
        self._staging.sweep()
        for row in self._registry.table.list():
            try:
                if row.state != "ready":
                    self._remove(row.workspace_id, "its creation or deletion was interrupted")
                else:
                    self._tidy(row)
            except PyroError as error:
                _log.warning(f"cannot recover {row.workspace_id}: {error}")
        self._remove_unknown()
        self._commands.recover()
        self._services.recover()

    def _tidy(self, row: WorkspaceRow) -> None:
        """Remove what an interrupted reset or snapshot has left."""
        for machine in self._fleet.rows():
            if machine.workspace_id == row.workspace_id and machine.machine_id != row.machine_id:
                self._fleet.remove(machine.machine_id, "a reset was interrupted, or done")
        self._commands.forget_history(row)
        self._snapshots.tidy(row)

    def _remove_unknown(self) -> None:
        """Machines and directories of workspaces without a row: the row comes first and goes last."""
        known = {row.workspace_id for row in self._registry.table.list()}
        for machine in self._fleet.rows():
            if machine.workspace_id is not None and machine.workspace_id not in known:
                self._fleet.remove(machine.machine_id, "its workspace is gone")
        home = self._registry.home
        for directory in home.iterdir() if home.is_dir() else ():
            if directory.name not in known:
                _log.info(f"removing {directory}, which no workspace owns")
                shutil.rmtree(directory, ignore_errors=True)

    # -- parts

    def _make(
        self,
        call: Call[Any],
        row: WorkspaceRow,
        machine: MachineRow,
        boot: BootSpec,
        seed_path: str | None,
        values: Values,
    ) -> None:
        with disk_errors(f"make the workspace {row.workspace_id}"):
            self._registry.directory(row.workspace_id).mkdir(mode=0o700, parents=True)
        self._faults("workspace directory made")
        self._secrets.keep(row.workspace_id, values)
        seed = create_seed(call, self._registry.directory(row.workspace_id), seed_path, boot.driver.capabilities)
        self._faults("workspace seeded")
        call.check()
        self._fleet.admit(machine)
        self._images.lease(machine)
        call.progress("starting the machine", None)
        mounted = self._sessions.with_mounts(row, boot)
        populate(call, self._fleet.start(machine.machine_id, mounted, call.progress), mounted.seed, None)
        call.check()
        self._faults("workspace up")
        self._registry.table.ready(row.workspace_id, encode(seed))
        self._faults("workspace ready")

    def _remove(self, workspace_id: str, why: str) -> bool:
        """End a workspace in whatever state and erase everything of it; False when it was gone already."""
        with self._for_its_end(workspace_id, why):
            if self._registry.table.get(workspace_id) is None:
                return False
            # As of its machine: on a disk so full that not even the reserve is left, deleting is what frees some.
            with contextlib.suppress(DiskFull):
                self._registry.table.deleting(workspace_id)
            self._faults("workspace deleting")
            for machine in self._fleet.rows():
                if machine.workspace_id == workspace_id:
                    self._fleet.remove(machine.machine_id, why)
                    self._fleet.forget_end(machine.machine_id)
            self._commands.join(workspace_id)
            with disk_errors(f"remove the workspace {workspace_id}"), contextlib.suppress(FileNotFoundError):
                shutil.rmtree(self._registry.directory(workspace_id))
            self._secrets.forget(workspace_id)
            self._faults("workspace erased")
            self._registry.table.delete(workspace_id)
            self._faults("workspace gone")
        self._registry.forget(workspace_id)
        return True
