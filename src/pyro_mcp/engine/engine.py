"""Engine: what the verbs of a node work with, put together once. It knows no verb itself."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from pyro_mcp.engine.faults import Faults, no_faults
from pyro_mcp.engine.fleet.fleet import Fleet
from pyro_mcp.machines.driver import Driver, GuestRuntime, Image
from pyro_mcp.settings import Settings
from pyro_mcp.store.database import Database
from pyro_mcp.store.machines import MachineRow, Machines
from pyro_mcp.system.clock import Clock
from pyro_mcp.system.progress import Progress

if TYPE_CHECKING:
    from pyro_mcp.engine.commands.manager import Commands
    from pyro_mcp.engine.fleet.images import Images
    from pyro_mcp.engine.fleet.networks import Networks
    from pyro_mcp.engine.secrets.store import Secrets
    from pyro_mcp.engine.services.manager import Services
    from pyro_mcp.engine.shells.manager import Shells
    from pyro_mcp.engine.vms import Vms
    from pyro_mcp.engine.workspaces.lifecycle import Lifecycle
    from pyro_mcp.engine.workspaces.snapshots import Snapshots
    from pyro_mcp.environments.store import EnvironmentStore


class Drivers(Protocol):
    """Where machines come from; `machines.catalog.DriverCatalog` outside of tests."""

    def require_guest(self) -> None: ...

    def guest(self, environment: Image, runtime: GuestRuntime, notice: Callable[[str], None]) -> Driver: ...

    def host(self) -> Driver: ...

    def likely(self) -> Driver: ...

    def by_isolation(self, isolation: str) -> Driver: ...


class Engine:
    """Settings, store, environments, drivers and the fleet of one node."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        *,
        drivers: Drivers | None = None,
        environments: Any = None,
        clock: Clock | None = None,
        faults: Faults = no_faults,
    ) -> None:
        self.settings = settings
        self.database = database
        self.clock = clock or Clock()
        self.faults = faults
        self.fleet = Fleet(
            settings,
            Machines(database),
            self.clock,
            faults=faults,
            release=self._release,
            link=lambda row: self.networks.link(row),
            overhead=lambda row: self.drivers.by_isolation(row.isolation).capabilities.overhead_mib,
        )
        if drivers is not None:
            self.drivers = drivers
        if environments is not None:
            self.environments = environments

    @classmethod
    def open(cls, settings: Settings) -> Engine:
        """The engine over the store in `settings.state_dir`. Raises what `Database` raises."""
        return cls(settings, Database(settings.state_dir / "pyro.db"))

    @cached_property
    def drivers(self) -> Drivers:
        from pyro_mcp.machines.catalog import DriverCatalog

        return DriverCatalog(self.settings)

    @cached_property
    def environments(self) -> EnvironmentStore:
        from pyro_mcp.environments.store import EnvironmentStore

        return EnvironmentStore(self.settings)

    @cached_property
    def vms(self) -> Vms:
        from pyro_mcp.engine.vms import Vms

        return Vms(self)

    @cached_property
    def lifecycle(self) -> Lifecycle:
        from pyro_mcp.engine.workspaces.lifecycle import Lifecycle

        return Lifecycle(self)

    @cached_property
    def commands(self) -> Commands:
        from pyro_mcp.engine.commands.manager import Commands

        return Commands(self)

    @cached_property
    def snapshots(self) -> Snapshots:
        from pyro_mcp.engine.workspaces.snapshots import Snapshots

        return Snapshots(self)

    @cached_property
    def secrets(self) -> Secrets:
        from pyro_mcp.engine.secrets.store import Secrets

        return Secrets(self)

    @cached_property
    def networks(self) -> Networks:
        from pyro_mcp.engine.fleet.networks import Networks

        return Networks(self)

    @cached_property
    def services(self) -> Services:
        from pyro_mcp.engine.services.manager import Services

        return Services(self)

    @cached_property
    def shells(self) -> Shells:
        from pyro_mcp.engine.shells.manager import Shells

        return Shells(self)

    @cached_property
    def images(self) -> Images:
        from pyro_mcp.engine.fleet.images import Images

        return Images(self)

    def _release(self, row: MachineRow) -> None:
        """A machine is gone: give back what it held."""
        self.images.release(row)
        self.networks.forget(row.machine_id)

    def runtime(self, progress: Progress, cancelled: threading.Event | None = None) -> GuestRuntime:
        """The guest runtime, built when absent."""
        from pyro_mcp.environments.runtime import ensure_runtime

        made = ensure_runtime(self.settings, progress, cancelled=cancelled)
        return GuestRuntime(made.digest, made.kernel, made.initramfs, made.image)

    @property
    def busy(self) -> bool:
        """Whether a machine exists, so that a node is needed to end it in time."""
        return bool(self.fleet.rows())

    def next_expiry(self) -> float | None:
        """Seconds until the next machine or workspace expires, at most 0 when one has; None when nothing does."""
        found = (self.fleet.next_expiry(), self.lifecycle.next_expiry())
        return min((seconds for seconds in found if seconds is not None), default=None)

    def reap(self) -> None:
        """Remove what has expired."""
        self.fleet.reap()
        self.lifecycle.reap()

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call `callback` whenever a machine comes, goes or changes."""
        self.fleet.on_change(callback)

    def stop_all(self) -> None:
        """Remove one-shot machines and power off the rest, keeping their disks."""
        for row in self.fleet.rows():
            if row.one_shot:
                self.fleet.remove(row.machine_id, "the node was stopped")
            elif row.state == "running":
                self.fleet.stop(row.machine_id, at_any_price=True)

    def close(self) -> None:
        """Let go of the store. Machines that run go on running; the next node adopts them. What was made ahead ends."""
        self.fleet.pool.close()
        self.commands.leave()
        self.services.leave()
        self.fleet.let_go()
        self.commands.join()
        try:
            self.networks.close()
        finally:
            self.database.close()
