"""Provision: what every machine needs before it can start, whether it stands alone or a workspace lives in it."""

from __future__ import annotations

import secrets
from dataclasses import asdict
from typing import Any

from pyro_mcp.engine.fleet import admission
from pyro_mcp.engine.fleet.drivers import Drivers
from pyro_mcp.engine.fleet.fleet import BootSpec, Fleet
from pyro_mcp.engine.fleet.images import Images
from pyro_mcp.errors import IsolationUnavailable, MissingDependency
from pyro_mcp.model.size import MachineSize
from pyro_mcp.operations.call import Call
from pyro_mcp.settings import Settings
from pyro_mcp.store.machines import MachineRow
from pyro_mcp.store.workspaces import WorkspaceRow
from pyro_mcp.system.clock import NANO, Clock


class Provisioner:
    """From the name of an environment to what a machine boots from, and the row that announces it."""

    def __init__(self, settings: Settings, fleet: Fleet, images: Images, drivers: Drivers, clock: Clock) -> None:
        self._settings = settings
        self._fleet = fleet
        self._images = images
        self._drivers = drivers
        self._clock = clock

    def prepare(self, call: Call[Any], environment: str, size: MachineSize, *, allow_host_compat: bool) -> BootSpec:
        """Refuse early what cannot be, then return the boot spec of a new machine."""
        admission.check_size(size.vcpu_count)
        admission.check_place(self._fleet.rows(), self._settings)
        besides = self._drivers.likely().capabilities.overhead_mib
        admission.check_memory(self._fleet.committed_mib(), size.mem_mib, besides, self._settings)
        try:
            return self._guest(call, environment)
        except (IsolationUnavailable, MissingDependency) as error:
            if not allow_host_compat:
                raise
            self._images.inspect(environment)
            call.notice(f"{error.message}; running on this host WITHOUT isolation, as allowed")
            return BootSpec(self._drivers.host())

    def again(self, call: Call[Any], row: MachineRow) -> BootSpec:
        """The boot spec of the existing machine `row`, or of one like it."""
        driver = self._drivers.by_isolation(row.isolation)
        return BootSpec(driver) if row.digest is None else BootSpec(driver, *self._images.of_machine(call, row))

    def row(
        self,
        environment: str,
        boot: BootSpec,
        size: MachineSize,
        *,
        one_shot: bool,
        ttl_seconds: int,
        workspace_id: str | None = None,
        network: dict[str, Any] | None = None,
    ) -> MachineRow:
        """A machine that is about to be made, with an id of its own. `network` is as `Networks.asked` gives it."""
        clock, promised = self._clock, boot.driver.capabilities
        now = clock.wall()
        return MachineRow(
            machine_id=f"vm-{secrets.token_hex(6)}",
            environment=environment,
            digest=boot.environment.digest if boot.environment else None,
            driver=boot.driver.name,
            isolation=promised.isolation,
            execution_mode=promised.execution_mode,
            **asdict(size),
            state="creating",
            one_shot=one_shot,
            ttl_seconds=ttl_seconds,
            created_at=now,
            expires_at=now + ttl_seconds,
            boot_id=clock.boot_id,
            deadline_ns=clock.boot_ns() + ttl_seconds * NANO,
            workspace_id=workspace_id,
            network=network or {},
        )

    def _guest(self, call: Call[Any], environment: str) -> BootSpec:
        self._drivers.require_guest()
        image, runtime = self._images.for_guest(call, environment)
        return BootSpec(self._drivers.guest(image, runtime, call.notice), image, runtime)


def planned_row(machine: MachineRow, name: str | None, labels: dict[str, str], allow_host_compat: bool) -> WorkspaceRow:
    """The row of a workspace that will live in `machine` and as long as that was made for."""
    assert machine.workspace_id is not None
    return WorkspaceRow(
        workspace_id=machine.workspace_id,
        machine_id=machine.machine_id,
        state="creating",
        name=name,
        labels=labels,
        environment=machine.environment,
        **asdict(machine.size),
        network_policy=machine.network.get("mode", "off"),
        allow_host_compat=allow_host_compat,
        seed={},
        ttl_seconds=machine.ttl_seconds,
        created_at=machine.created_at,
        expires_at=machine.expires_at,
        boot_id=machine.boot_id,
        deadline_ns=machine.deadline_ns,
        last_activity_at=machine.created_at,
        network=machine.network,
    )
