"""Births: what every machine needs before it can be, whether it stands alone or a workspace lives in it."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from pyro_mcp.engine.fleet import admission
from pyro_mcp.engine.fleet.fleet import Boot
from pyro_mcp.errors import IsolationUnavailable, MissingDependency
from pyro_mcp.operations.call import Call
from pyro_mcp.store.machines import MachineRow
from pyro_mcp.store.workspaces import WorkspaceRow
from pyro_mcp.system.clock import NANO

if TYPE_CHECKING:
    from pyro_mcp.engine.engine import Engine


class Births:
    """Over one engine: from a name to what a machine is born from, and the row that announces it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def prepare(
        self, call: Call[Engine], environment: str, *, vcpu_count: int, mem_mib: int, allow_host_compat: bool
    ) -> Boot:
        """Refuse early what cannot be, then have everything at hand that a machine is born from."""
        admission.check_size(vcpu_count)
        fleet, settings = self._engine.fleet, self._engine.settings
        admission.check_place(fleet.rows(), settings)
        besides = self._engine.drivers.likely().capabilities.overhead_mib
        admission.check_memory(fleet.committed_mib(), mem_mib, besides, settings)
        try:
            return self._guest(call, environment)
        except (IsolationUnavailable, MissingDependency) as error:
            if not allow_host_compat:
                raise
            self._engine.images.inspect(environment)
            call.notice(f"{error.message}; running on this host WITHOUT isolation, as allowed")
            return Boot(self._engine.drivers.host())

    def again(self, call: Call[Engine], row: MachineRow) -> Boot:
        """What the existing machine `row`, or one like it, is born from."""
        driver = self._engine.drivers.by_isolation(row.isolation)
        return Boot(driver) if row.digest is None else Boot(driver, *self._engine.images.of_machine(call, row))

    def row(
        self,
        environment: str,
        boot: Boot,
        *,
        one_shot: bool,
        vcpu_count: int,
        mem_mib: int,
        scratch_mib: int,
        ttl_seconds: int,
        workspace_id: str | None = None,
        network: dict[str, Any] | None = None,
    ) -> MachineRow:
        """A machine that is about to be made, with an id of its own. `network` is as `Networks.asked` gives it."""
        clock, promised = self._engine.clock, boot.driver.capabilities
        now = clock.wall()
        return MachineRow(
            machine_id=f"vm-{secrets.token_hex(6)}",
            environment=environment,
            digest=boot.environment.digest if boot.environment else None,
            driver=boot.driver.name,
            isolation=promised.isolation,
            execution_mode=promised.execution_mode,
            vcpu_count=vcpu_count,
            mem_mib=mem_mib,
            scratch_mib=scratch_mib,
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

    def _guest(self, call: Call[Engine], environment: str) -> Boot:
        self._engine.drivers.require_guest()
        image, runtime = self._engine.images.for_guest(call, environment)
        return Boot(self._engine.drivers.guest(image, runtime, call.notice), image, runtime)


def announced(machine: MachineRow, name: str | None, labels: dict[str, str], allow_host_compat: bool) -> WorkspaceRow:
    """The row of a workspace that will live in `machine` and as long as that was made for."""
    assert machine.workspace_id is not None
    return WorkspaceRow(
        workspace_id=machine.workspace_id,
        machine_id=machine.machine_id,
        state="creating",
        name=name,
        labels=labels,
        environment=machine.environment,
        vcpu_count=machine.vcpu_count,
        mem_mib=machine.mem_mib,
        scratch_mib=machine.scratch_mib,
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
