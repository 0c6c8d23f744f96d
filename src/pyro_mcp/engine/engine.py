"""Engine: the composition root. It builds every manager of a node in dependency order and passes each what it uses.

The verbs of `api/` find the managers here; no manager knows the engine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyro_mcp.engine.commands.manager import CommandManager
from pyro_mcp.engine.faults import Faults, no_faults
from pyro_mcp.engine.files.manager import FileManager
from pyro_mcp.engine.fleet.drivers import Drivers
from pyro_mcp.engine.fleet.fleet import Fleet
from pyro_mcp.engine.fleet.images import Images
from pyro_mcp.engine.fleet.installs import Installs
from pyro_mcp.engine.fleet.networks import Networks
from pyro_mcp.engine.fleet.provision import Provisioner
from pyro_mcp.engine.projects.clones import Clones
from pyro_mcp.engine.projects.manager import Projects
from pyro_mcp.engine.projects.trust import Trust
from pyro_mcp.engine.registry import Registry
from pyro_mcp.engine.secrets.store import SecretManager
from pyro_mcp.engine.services.manager import ServiceManager
from pyro_mcp.engine.session import Sessions
from pyro_mcp.engine.shells.manager import ShellManager
from pyro_mcp.engine.staging import ExportStaging
from pyro_mcp.engine.vms import Vms
from pyro_mcp.engine.workspaces.lifecycle import Lifecycle
from pyro_mcp.engine.workspaces.offline_disk import OfflineDisk
from pyro_mcp.engine.workspaces.snapshots import SnapshotManager
from pyro_mcp.engine.workspaces.summary import Summaries
from pyro_mcp.engine.workspaces.view import WorkspaceView
from pyro_mcp.environments.store import EnvironmentStore
from pyro_mcp.machines.catalog import DriverCatalog
from pyro_mcp.settings import Settings
from pyro_mcp.store.database import Database
from pyro_mcp.store.machines import Machines
from pyro_mcp.system.clock import Clock


class Engine:
    """What the verbs of one node act on."""

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
        """`drivers`, `environments`, `clock` and `faults` stand in for this host's in tests."""
        state = settings.state_dir
        self.settings = settings
        self.database = database
        self.clock = clock = clock or Clock()
        self.faults = faults
        self.drivers = drivers = drivers or DriverCatalog(settings)

        self.registry = registry = Registry(database, state / "workspaces", clock)
        self.secrets = secrets = SecretManager(database, registry)
        self.installs = installs = Installs()
        store = environments or EnvironmentStore(settings)
        self.images = images = Images(settings, store, installs, state / "machines", faults)
        self.networks = networks = Networks(database, secrets, drivers, clock, settings.ca_file)
        self.fleet = fleet = Fleet(settings, Machines(database), images, networks, drivers, clock, faults)
        provisioner = Provisioner(settings, fleet, images, drivers, clock)

        self.staging = staging = ExportStaging(state / "outgoing", faults)
        self.sessions = sessions = Sessions(registry, fleet, provisioner, secrets, staging, faults)
        self.commands = commands = CommandManager(database, registry, sessions, fleet, secrets, networks, clock, faults)
        self.services = services = ServiceManager(database, registry, sessions, fleet, secrets, clock, faults)
        self.shells = shells = ShellManager(registry, sessions, secrets)
        self.files = FileManager(sessions)

        view = WorkspaceView(fleet, secrets, commands, services)
        self.snapshots = snapshots = SnapshotManager(
            database, registry, sessions, fleet, provisioner, images, commands, view, clock, faults
        )
        self.summaries = Summaries(registry, sessions, fleet, networks, commands, services, shells, snapshots, view)
        self.offline_disk = OfflineDisk(registry, fleet, secrets, staging)
        self.lifecycle = Lifecycle(
            registry,
            sessions,
            fleet,
            provisioner,
            images,
            networks,
            secrets,
            commands,
            services,
            snapshots,
            staging,
            view,
            clock,
            faults,
        )
        clones = Clones(settings.cache_dir / "projects", clock, faults)
        trust = Trust(state / "trusted-projects.json")
        self.projects = Projects(self.lifecycle, networks, clones, trust)
        self.vms = Vms(fleet, provisioner, images, networks, faults)

    @classmethod
    def open(cls, settings: Settings) -> Engine:
        """The engine over the store in `settings.state_dir`. Raises what `Database` raises."""
        return cls(settings, Database(settings.state_dir / "pyro.db"))

    @property
    def busy(self) -> bool:
        """Whether a machine exists, so that a node is needed to end it in time, or something is being installed."""
        return bool(self.fleet.rows()) or self.installs.busy

    def next_expiry(self) -> float | None:
        """Seconds until the next machine or workspace expires, at most 0 when one has; None when nothing does."""
        found = (self.fleet.next_expiry(), self.lifecycle.next_expiry())
        return min((seconds for seconds in found if seconds is not None), default=None)

    def reap(self) -> None:
        """Remove what has expired."""
        self.fleet.reap()
        self.lifecycle.reap()

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call `callback` whenever a machine comes, goes or changes, and when an installation ends."""
        self.fleet.on_change(callback)
        self.installs.on_change(callback)

    def stop_all(self) -> None:
        """Remove one-shot machines and power off the rest, keeping their disks."""
        for row in self.fleet.rows():
            if row.one_shot:
                self.fleet.remove(row.machine_id, "the node was stopped")
            elif row.state == "running":
                self.fleet.stop(row.machine_id)

    def close(self) -> None:
        """Close the store. Machines that run go on running; the next node adopts them. What was made ahead ends, and so
        does what is being installed."""
        self.installs.close()
        self.fleet.pool.close()
        self.commands.detach()
        self.services.detach()
        self.fleet.detach()
        self.commands.join()
        try:
            self.networks.close()
        finally:
            self.database.close()
