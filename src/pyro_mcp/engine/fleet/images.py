"""The `env` verbs, and the image that a machine boots from, leased for as long as the machine lives."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from pyro_mcp.engine.faults import Faults
from pyro_mcp.engine.fleet.installs import Installs
from pyro_mcp.environments.runtime import Runtime, ensure_runtime, find_runtime
from pyro_mcp.environments.store import EnvironmentImage, EnvironmentStore
from pyro_mcp.machines.driver import GuestRuntime, Image
from pyro_mcp.model.environment import Environment, PruneResult
from pyro_mcp.model.environment_list import EnvironmentList
from pyro_mcp.operations.call import Call
from pyro_mcp.settings import Settings
from pyro_mcp.store.machines import MachineRow
from pyro_mcp.system.progress import Progress


class Images:
    """The environments of this host and the guest runtime. `machines` is where machines keep their directories."""

    def __init__(
        self, settings: Settings, environments: EnvironmentStore, installs: Installs, machines: Path, faults: Faults
    ) -> None:
        self._settings = settings
        self._environments = environments
        self._installs = installs
        self._machines = machines
        self._faults = faults

    def list(self) -> EnvironmentList:
        store = self._environments
        found = store.list()
        return EnvironmentList(count=len(found), catalog_version=store.catalog_version, environments=found)

    def inspect(self, name: str) -> Environment:
        return self._environments.inspect(name)

    def pull(self, call: Call[Any], name: str) -> Environment:
        """Install `name` whether it is there or not: what is damaged or old is built again."""
        self._install(call, name, keep=False)
        return self._environments.inspect(name)

    def prune(self, *, everything: bool, dry_run: bool) -> PruneResult:
        return self._environments.prune(everything=everything, dry_run=dry_run)

    def for_guest(self, call: Call[Any], name: str) -> tuple[Image, GuestRuntime]:
        """The environment's image and the runtime, built when absent."""
        found = self._environments.find(name) or self._install(call, name)
        return Image(found.digest, found.path), self._runtime(call)

    def of_machine(self, call: Call[Any], row: MachineRow) -> tuple[Image, GuestRuntime]:
        """The image of an existing machine: its disk fits only the image it was made on."""
        assert row.digest is not None
        found = self._environments.leased(row.digest)
        return Image(found.digest, found.path), self._runtime(call)

    def lease(self, row: MachineRow) -> None:
        """Keep the machine's image from being pruned until `release`."""
        if row.digest is not None:
            self._environments.lease(row.digest, self._machines / row.machine_id)
            self._faults("leased")

    def release(self, row: MachineRow) -> None:
        if row.digest is not None:
            self._environments.release(row.digest, self._machines / row.machine_id)

    def _install(self, call: Call[Any], name: str, *, keep: bool = True) -> EnvironmentImage:
        def work(progress: Progress, cancelled: threading.Event) -> EnvironmentImage:
            return self._environments.ensure(name, progress, cancelled=cancelled)

        return self._installs.run(call, name, work, keep=keep)

    def _runtime(self, call: Call[Any]) -> GuestRuntime:
        """The guest runtime, built when absent."""

        def work(progress: Progress, cancelled: threading.Event) -> Runtime:
            return ensure_runtime(self._settings, progress, cancelled=cancelled)

        made = find_runtime(self._settings) or self._installs.run(call, "the guest runtime", work)
        return GuestRuntime(made.digest, made.kernel, made.initramfs, made.image)
