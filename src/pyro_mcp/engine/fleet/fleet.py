"""Fleet: the machines of this node, from admission to deletion.

Every change of a machine is written before it is made and after (`store.machines`), under that machine's lock; the
fleet's own lock covers only admission, so one slow boot holds up nobody else.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pyro_mcp.engine.faults import Faults
from pyro_mcp.engine.fleet import admission
from pyro_mcp.engine.fleet.drivers import Drivers
from pyro_mcp.engine.fleet.images import Images
from pyro_mcp.engine.fleet.networks import Networks
from pyro_mcp.engine.fleet.pool import Pool
from pyro_mcp.errors import Capacity, Conflict, DiskFull, NotFound, PyroError
from pyro_mcp.machines.driver import Driver, GuestRuntime, Image, Machine, MachineSpec, WorkspaceMount
from pyro_mcp.model.environment import PruneResult
from pyro_mcp.model.names import there_are
from pyro_mcp.model.refusals import not_started
from pyro_mcp.protocol.channel import ChannelClosed, RemoteError
from pyro_mcp.settings import Settings
from pyro_mcp.store.machines import MachineRow, Machines
from pyro_mcp.system.atomic import disk_errors
from pyro_mcp.system.clock import Clock
from pyro_mcp.system.progress import Progress
from pyro_mcp.system.threads import begin

_log = logging.getLogger(__name__)

SHUTDOWN_SECONDS = 17.0
"""How long a guest may take to let its services end, and then to write out what it has cached; what it has not written
by then is lost."""
DEATH_SECONDS = 1.0
"""How long after a machine's channel its process may end by itself, before it is ended."""


@dataclass(frozen=True)
class BootSpec:
    """What a machine boots from. Without images it is no guest; `seed` and `workspace` are a workspace's."""

    driver: Driver
    environment: Image | None = None
    runtime: GuestRuntime | None = None
    seed: Path | None = None
    workspace: WorkspaceMount | None = None


@dataclass(frozen=True)
class MachineProcess:
    """A machine and its process, if it has one."""

    row: MachineRow
    pid: int | None


class Fleet:
    """All machines of one state directory. Every method may be called from any thread."""

    def __init__(
        self,
        settings: Settings,
        machines: Machines,
        images: Images,
        networks: Networks,
        drivers: Drivers,
        clock: Clock,
        faults: Faults,
    ) -> None:
        self._settings = settings
        self._machines = machines
        self._clock = clock
        self._faults = faults
        self._images = images
        self._networks = networks
        self._drivers = drivers
        self._live: dict[str, Machine] = {}
        self._admitting = threading.Lock()
        self.pool = Pool(settings, admitting=self._admitting, free_mib=self._free_mib, faults=faults)
        self._locks: dict[str, threading.RLock] = {}
        self._ended: dict[str, str] = {}
        self._given_up: dict[str, str] = {}
        self._listeners: list[Callable[[], None]] = []

    # -- looking

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call `callback` whenever a machine has come, gone or changed state."""
        self._listeners.append(callback)

    def rows(self) -> list[MachineRow]:
        return self._machines.list()

    def get(self, machine_id: str) -> MachineRow:
        """Raises `NotFound`, whose hint lists the machines that are there by themselves and not for a workspace."""
        row = self._machines.get(machine_id)
        if row is None or row.state == "deleting":
            known = [
                row.machine_id for row in self._machines.list() if row.state != "deleting" and not row.workspace_id
            ]
            raise NotFound(
                f"cannot find the machine {machine_id}: it does not exist or has expired", hint=there_are(known)
            )
        return row

    def live(self, machine_id: str) -> Machine:
        """The running machine. Raises `NotFound`, or `Conflict` when it does not run."""
        row = self.get(machine_id)
        machine = self._live.get(machine_id)
        if row.state != "running" or machine is None:
            start = "start_workspace" if row.workspace_id else "start_vm"
            raise not_started(machine_id, row.state, start, row.reason)
        return machine

    def list_processes(self) -> list[MachineProcess]:
        """Every machine with the id of its process."""
        found = []
        for row in self._machines.list():
            machine = self._live.get(row.machine_id)
            found.append(MachineProcess(row, machine.pid if machine else None))
        return found

    def committed_mib(self) -> int:
        return admission.committed_mib(self._machines.list(), self._overhead)

    def directory(self, machine_id: str) -> Path:
        """The machine's own directory."""
        return self._settings.state_dir / "machines" / machine_id

    def ended_because(self, machine_id: str) -> str | None:
        """Why the fleet itself ended a machine that somebody was using; None if it did not."""
        return self._ended.get(machine_id)

    def prune(self, *, everything: bool, dry_run: bool) -> PruneResult:
        """Remove the environments that no machine needs; those that wait in the pool would hold the space of some."""
        if not dry_run:
            self.pool.empty()
        return self._images.prune(everything=everything, dry_run=dry_run)

    # -- coming

    def admit(self, row: MachineRow, *, replacing: str | None = None) -> None:
        """Write the intent to make a machine, or raise `Capacity`. A row that starts right away takes memory.

        A machine that soon takes the place of `replacing` is admitted into that place: for the moments of a change
        both hold memory, because otherwise a full host could reset nothing.
        """
        with self._admitting:
            rows = [other for other in self._machines.list() if other.machine_id != replacing]
            admission.check_place(rows, self._settings)
            self._check_memory(rows, row)
            self._machines.insert(row)
        self._changed("admitted")
        try:
            with disk_errors(f"make the machine {row.machine_id}"):
                self.directory(row.machine_id).mkdir(mode=0o700, parents=True)
        except PyroError:
            self._machines.delete(row.machine_id)
            raise
        self._faults("directory made")

    def created(self, machine_id: str) -> MachineRow:
        """An admitted machine is complete and waits to be started."""
        self._machines.set_state(machine_id, "created")
        self._changed("created")
        return self.get(machine_id)

    def start(self, machine_id: str, boot: BootSpec, progress: Progress) -> Machine:
        """Bring an admitted, created or stopped machine up. One that fails to start is `failed`, with the reason."""
        with self._locked(machine_id):
            row = self.get(machine_id)
            running = self._live.get(machine_id)
            if row.state == "running" and running is not None:
                return running
            if row.state not in ("creating", "created", "stopped", "failed"):
                raise Conflict(f"cannot start {machine_id}: it is {row.state}")
            if row.state != "creating":
                self._claim(row)
            try:
                return self._launch(row, boot, progress)
            except PyroError as error:
                self._machines.set_state(machine_id, "failed", reason=error.message[:500])
                self._changed("start failed")
                raise

    def adopt(self, row: MachineRow, machine: Machine) -> None:
        """Take over a live machine that an earlier node has left."""
        self._live[row.machine_id] = machine
        self._machines.set_state(row.machine_id, "running")
        self._watch(row.machine_id, machine)
        self._changed("adopted")

    def _claim(self, row: MachineRow) -> None:
        with self._admitting:
            self._check_memory(self._machines.list(), row)
            self._machines.set_state(row.machine_id, "starting")
        self._changed("claimed")

    def _overhead(self, row: MachineRow) -> int:
        """What a machine takes of the host besides its memory, in MiB."""
        return self._drivers.by_isolation(row.isolation).capabilities.overhead_mib

    def _check_memory(self, rows: list[MachineRow], row: MachineRow) -> None:
        """Raises `Capacity` when `row` does not fit; machines made ahead give way to it."""
        used = admission.committed_mib(rows, self._overhead)
        admission.check_memory(used, row.mem_mib, self._overhead(row), self._settings)
        self.pool.fit(self._free_mib() - row.mem_mib - self._overhead(row), row)

    def _launch(self, row: MachineRow, boot: BootSpec, progress: Progress) -> Machine:
        spec = MachineSpec(
            machine_id=row.machine_id,
            directory=self.directory(row.machine_id),
            environment=boot.environment,
            runtime=boot.runtime,
            size=row.size,
            seed=boot.seed,
            workspace=boot.workspace,
            network=self._networks.link(row) if boot.driver.capabilities.network else None,
        )
        self._ended.pop(row.machine_id, None)
        with disk_errors(f"start the machine {row.machine_id}"):
            machine = self.pool.launch(boot.driver, spec, row.environment, lambda: self._make(boot, spec, progress))
        self._faults("launched")
        try:
            self._machines.set_state(row.machine_id, "running")
        except PyroError:
            machine.terminate()
            raise
        self._live[row.machine_id] = machine
        self._watch(row.machine_id, machine)
        self._changed("running")
        return machine

    def _make(self, boot: BootSpec, spec: MachineSpec, progress: Progress) -> Machine:
        with self._admitting:
            # None that waits becomes this one, so all of them are beside it.
            self.pool.fit(self._free_mib())
        return boot.driver.launch(spec, progress)

    def _free_mib(self) -> int:
        """What is left to promise; less than nothing while a machine takes the place of another."""
        return self._settings.memory_limit_mib - self.committed_mib()

    # -- going

    def stop(self, machine_id: str, *, at_any_price: bool = False) -> MachineRow:
        """Power off; the disk stays. A machine that does not run is left as it is.

        Where a full disk keeps that from being recorded, or the machine from writing out what it has cached, it is
        stopped `at_any_price` only: raises `DiskFull`.
        """
        unrecorded = (DiskFull,) if at_any_price else ()
        with self._locked(machine_id):
            row = self.get(machine_id)
            if row.state == "running":
                if not at_any_price:
                    self._require_going(machine_id)
                with contextlib.suppress(*unrecorded):
                    self._machines.set_state(machine_id, "stopping")
                self._changed("stopping")
                machine = self._live.pop(machine_id, None)
                if machine is not None and not _power_off(machine):
                    if not at_any_price and machine.alive():
                        self._keep(machine_id, machine)
                    machine.terminate()
                self._faults("powered off")
                with contextlib.suppress(*unrecorded):
                    self._machines.set_state(machine_id, "stopped", outcome=True)
                self._changed("stopped")
            return self.get(machine_id)

    def _keep(self, machine_id: str, machine: Machine) -> None:
        """The disk became full when the guest wrote out what it had cached; it ends once it has done so. Raises why,
        unless the guest goes on or is gone already."""
        refusal = machine.channel.standstill.refusal
        if refusal is not None:
            self._live[machine_id] = machine
            self._given_up[machine_id] = "it was stopped, and had to wait for room on this host's disk"
            self._machines.set_state(machine_id, "running", outcome=True)
            self._changed("kept")
            raise PyroError.from_wire(refusal)

    def _require_going(self, machine_id: str) -> None:
        machine = self._live.get(machine_id)
        refusal = machine.channel.standstill.refusal if machine else None
        if refusal is not None:
            raise PyroError.from_wire(refusal)

    def remove(self, machine_id: str, why: str) -> bool:
        """End a machine in whatever state and erase everything of it; False when it was gone already.

        Raises `PermissionDenied` or `PyroError` when its files cannot be removed; its row then stays `deleting`.
        """
        with self._locked(machine_id):
            row = self._machines.get(machine_id)
            if row is None:
                return False
            # On a full disk the intent cannot be written, but deleting is what frees it: whoever dies in between
            # leaves a machine without its files, which the next node removes like any other dead one.
            with contextlib.suppress(DiskFull):
                self._machines.set_state(machine_id, "deleting", reason=why)
            self._changed("deleting")
            machine = self._live.pop(machine_id, None)
            if machine is not None:
                self._ended[machine_id] = why
                machine.terminate()
            self._faults("terminated")
            self._images.release(row)
            self._networks.forget(machine_id)
            self.erase(machine_id)
            self._faults("erased")
            self._machines.delete(machine_id)
            self._changed("deleted")
        self._locks.pop(machine_id, None)
        return True

    def disconnect(self, machine_id: str, why: str) -> None:
        """Break off what anybody has under way in a machine that is about to be removed."""
        machine = self._live.get(machine_id)
        if machine is not None:
            machine.channel.close(why)

    def forget_end(self, machine_id: str) -> None:
        """Whoever used the machine has learned why it ended."""
        self._ended.pop(machine_id, None)

    def erase(self, machine_id: str) -> None:
        """Remove a machine's directory, if there is one. Raises `PermissionDenied` or `PyroError`."""
        with disk_errors(f"remove the machine {machine_id}"), contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.directory(machine_id))

    def _watch(self, machine_id: str, machine: Machine) -> None:
        machine.on_exit(lambda: self._died(machine_id, machine))
        machine.channel.on_close(lambda reason: self._cut_off(machine_id, machine, reason))

    def _cut_off(self, machine_id: str, machine: Machine, reason: str) -> None:
        """A machine's channel has ended; runs on whatever thread ended it."""
        if self._live.get(machine_id) is machine and machine.alive():
            try:
                begin(lambda: self._give_up(machine_id, machine, reason), f"give-up-{machine_id}")
            except Capacity:
                self._give_up(machine_id, machine, reason)

    def _give_up(self, machine_id: str, machine: Machine, reason: str) -> None:
        """Nobody can ask anything of it any more: it ends, so that the next use starts it again."""
        gone = threading.Event()
        machine.on_exit(gone.set)
        if not gone.wait(DEATH_SECONDS) and self._live.get(machine_id) is machine:
            self._given_up[machine_id] = f"its agent was given up: {reason}"
            machine.terminate()

    def _died(self, machine_id: str, machine: Machine) -> None:
        """A machine's process has ended, by itself or through us; runs on its watcher's thread."""
        why = self._given_up.pop(machine_id, "its process ended unexpectedly")
        if self._live.get(machine_id) is machine:
            self._live.pop(machine_id, None)
            try:
                self._machines.fail(machine_id, why[:500])
            except PyroError as error:
                _log.warning(f"cannot record the end of {machine_id}: {error}")
            self._notify()

    def detach(self) -> None:
        """Disconnect from the machines that run and leave them to the next node."""
        live, self._live = self._live, {}
        for machine in live.values():
            machine.channel.close("the node is leaving")

    # -- time

    def next_expiry(self) -> float | None:
        """Seconds until the next machine of its own expires, at most 0 when one has; None when there is none."""
        return min((self._remaining(row) for row in self._independent()), default=None)

    def reap(self) -> list[str]:
        """Remove every machine whose time is up; their ids. One that cannot be removed does not spare the others."""
        gone = []
        for row in self._independent():
            if self._remaining(row) <= 0:
                try:
                    if self.remove(row.machine_id, f"its {row.ttl_seconds} s to live have passed"):
                        gone.append(row.machine_id)
                except PyroError as error:
                    _log.warning(f"cannot reap {row.machine_id}: {error}")
        return gone

    def _independent(self) -> list[MachineRow]:
        """Machines that end by themselves; a workspace's ends with the workspace."""
        return [row for row in self._machines.list() if row.workspace_id is None]

    def _remaining(self, row: MachineRow) -> float:
        return self._clock.remaining(row.boot_id, row.deadline_ns, row.expires_at)

    # -- small things

    @contextlib.contextmanager
    def _locked(self, machine_id: str) -> Iterator[None]:
        with self._locks.setdefault(machine_id, threading.RLock()):
            yield

    def _changed(self, step: str) -> None:
        self._faults(step)
        self.pool.disturb()
        self._notify()

    def _notify(self) -> None:
        for listener in self._listeners:
            listener()


def _power_off(machine: Machine) -> bool:
    """Whether the guest has written out what it had cached, and ended."""
    gone = threading.Event()
    machine.on_exit(gone.set)
    with contextlib.suppress(ChannelClosed, RemoteError, TimeoutError):
        machine.channel.call("shutdown", {}, SHUTDOWN_SECONDS)
        gone.wait(SHUTDOWN_SECONDS)
    return gone.is_set()
