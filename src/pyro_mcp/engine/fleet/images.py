"""The bodies of the `env` verbs, and what a machine needs of images: one to boot, held for as long as it lives."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from pyro_mcp.machines.driver import GuestRuntime, Image
from pyro_mcp.model.environment import Environment, PruneResult
from pyro_mcp.model.environment_list import EnvironmentList
from pyro_mcp.operations.call import Call
from pyro_mcp.store.machines import MachineRow

if TYPE_CHECKING:
    from pyro_mcp.engine.engine import Engine


class Images:
    """Environments and runtime over one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def list(self) -> EnvironmentList:
        store = self._engine.environments
        found = store.list()
        return EnvironmentList(count=len(found), catalog_version=store.catalog_version, environments=found)

    def inspect(self, name: str) -> Environment:
        return self._engine.environments.inspect(name)

    def pull(self, call: Call[Any], name: str) -> Environment:
        return self._engine.environments.pull(name, call.progress, cancelled=_cancelled(call))

    def prune(self) -> PruneResult:
        # They would hold the space of what goes.
        self._engine.fleet.pool.empty()
        return self._engine.environments.prune()

    def for_guest(self, call: Call[Any], name: str) -> tuple[Image, GuestRuntime]:
        """The environment's image and the runtime, built when absent."""
        cancelled = _cancelled(call)
        found = self._engine.environments.ensure(name, call.progress, cancelled=cancelled)
        return Image(found.digest, found.path), self._engine.runtime(call.progress, cancelled)

    def of_machine(self, call: Call[Any], row: MachineRow) -> tuple[Image, GuestRuntime]:
        """What an existing machine was born from: its disk fits only the image it was made on."""
        assert row.digest is not None
        found = self._engine.environments.leased(row.digest)
        return Image(found.digest, found.path), self._engine.runtime(call.progress, _cancelled(call))

    def lease(self, row: MachineRow) -> None:
        """Keep the machine's image from being pruned until `release`."""
        if row.digest is not None:
            self._engine.environments.lease(row.digest, self._engine.fleet.directory(row.machine_id))
            self._engine.faults("leased")

    def release(self, row: MachineRow) -> None:
        if row.digest is not None:
            self._engine.environments.release(row.digest, self._engine.fleet.directory(row.machine_id))


def _cancelled(call: Call[Any]) -> threading.Event:
    event = threading.Event()
    call.on_cancel(event.set)
    return event
