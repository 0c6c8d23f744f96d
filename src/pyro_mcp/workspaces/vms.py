"""The bodies of the `vm` verbs: from a name to a machine, one command in it, and its end.

`run` makes a machine that nobody else knows and always removes it: after the result, an error, a cancel, and, through
the store, after the node's own death.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

from pyro_mcp.errors import IsolationUnavailable, MissingDependency, PyroError, TimedOut, Unsupported
from pyro_mcp.machines.driver import Machine
from pyro_mcp.model.machine import ReapResult, Vm, VmDeleted, VmNetwork, VmState
from pyro_mcp.model.process import Cleanup, ExecutionMode, Isolation, RunResult
from pyro_mcp.operations.call import Call
from pyro_mcp.store.machines import MachineRow
from pyro_mcp.system.clock import NANO
from pyro_mcp.workspaces import admission
from pyro_mcp.workspaces.exec import run_command
from pyro_mcp.workspaces.fleet import Boot

if TYPE_CHECKING:
    from pyro_mcp.workspaces.engine import Engine

SCRATCH_MIB = 8192
_SHOWN_STATE: dict[str, VmState] = {"creating": "starting", "running": "started", "deleting": "stopping"}


class Vms:
    """The machines' verbs over one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._fleet = engine.fleet

    def run(
        self,
        call: Call[Engine],
        environment: str,
        *,
        command: str | list[str],
        timeout_seconds: int,
        stdin: bytes | Iterable[bytes] | None,
        **size: Any,
    ) -> RunResult:
        """Make, use and remove one machine. Raises what making and using it raise; it is removed in any case."""
        boot = self._prepare(call, environment, **size)
        row = self._row(environment, boot, one_shot=True, **size)
        self._fleet.admit(row)
        removal = _Removal(self._engine, row.machine_id, "one-shot machine")
        with removal:
            self._engine.images.lease(row)
            machine = self._start(call, row.machine_id, boot)
            call.check()
            done = self._exec(call, machine, command, timeout_seconds, stdin)
        return RunResult(**done, vm_id=row.machine_id, environment=environment, cleanup=removal.outcome)

    def create(self, call: Call[Engine], environment: str, **size: Any) -> Vm:
        boot = self._prepare(call, environment, **size)
        row = self._row(environment, boot, one_shot=False, **size)
        self._fleet.admit(row)
        try:
            self._engine.images.lease(row)
            call.check()
        except PyroError:
            self._fleet.remove(row.machine_id, "it could not be created")
            raise
        return vm_of(self._fleet.created(row.machine_id))

    def start(self, call: Call[Engine], machine_id: str) -> Vm:
        row = self._fleet.get(machine_id)
        if row.state != "running":
            self._start(call, machine_id, self._boot_again(call, row))
        return vm_of(self._fleet.get(machine_id))

    def exec(
        self,
        call: Call[Engine],
        machine_id: str,
        *,
        command: str | list[str],
        timeout_seconds: int,
        stdin: bytes | Iterable[bytes] | None,
    ) -> RunResult:
        """One command in a running machine, which is removed afterwards. Raises `NotFound` and `Conflict` before."""
        machine = self._fleet.live(machine_id)
        environment = self._fleet.get(machine_id).environment
        removal = _Removal(self._engine, machine_id, "vm_exec runs one command")
        with removal:
            done = self._exec(call, machine, command, timeout_seconds, stdin)
        return RunResult(**done, vm_id=machine_id, environment=environment, cleanup=removal.outcome)

    def stop(self, machine_id: str) -> Vm:
        return vm_of(self._fleet.stop(machine_id))

    def delete(self, machine_id: str) -> VmDeleted:
        self._fleet.get(machine_id)
        deleted = self._fleet.remove(machine_id, "asked to")
        return VmDeleted(vm_id=machine_id, deleted=deleted, reason="asked to")

    def status(self, machine_id: str) -> Vm:
        return vm_of(self._fleet.get(machine_id))

    def network(self, machine_id: str) -> VmNetwork:
        row = self._fleet.get(machine_id)
        return VmNetwork(
            vm_id=machine_id,
            network_enabled=False,
            network_policy="off",
            execution_mode=cast(ExecutionMode, row.execution_mode),
            isolation=cast(Isolation, row.isolation),
        )

    def reap(self) -> ReapResult:
        gone = self._fleet.reap()
        return ReapResult(count=len(gone), vm_ids=gone)

    # -- parts

    def _prepare(
        self, call: Call[Engine], environment: str, *, allow_host_compat: bool, network: bool, **size: Any
    ) -> Boot:
        """Refuse early what cannot be, then have everything at hand that a machine is born from."""
        if network:
            raise Unsupported(
                "cannot give the machine a network: this version of pyro has none yet", hint="Leave `network` out"
            )
        admission.check_size(size["vcpu_count"])
        rows = self._fleet.rows()
        admission.check_place(rows, self._engine.settings)
        admission.check_memory(rows, size["mem_mib"], self._engine.settings)
        try:
            return self._guest_boot(call, environment)
        except (IsolationUnavailable, MissingDependency) as error:
            if not allow_host_compat:
                raise
            self._engine.images.inspect(environment)
            call.notice(f"{error.message}; running on this host WITHOUT isolation, as allowed")
            return Boot(self._engine.drivers.host())

    def _guest_boot(self, call: Call[Engine], environment: str) -> Boot:
        self._engine.drivers.require_guest()
        image, runtime = self._engine.images.for_guest(call, environment)
        return Boot(self._engine.drivers.guest(image, runtime, call.notice), image, runtime)

    def _boot_again(self, call: Call[Engine], row: MachineRow) -> Boot:
        driver = self._engine.drivers.by_isolation(row.isolation)
        return Boot(driver) if row.digest is None else Boot(driver, *self._engine.images.of_machine(call, row))

    def _row(
        self,
        environment: str,
        boot: Boot,
        *,
        one_shot: bool,
        vcpu_count: int,
        mem_mib: int,
        ttl_seconds: int,
        **_: Any,
    ) -> MachineRow:
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
            scratch_mib=SCRATCH_MIB,
            state="creating",
            one_shot=one_shot,
            ttl_seconds=ttl_seconds,
            created_at=now,
            expires_at=now + ttl_seconds,
            boot_id=clock.boot_id,
            deadline_ns=clock.boot_ns() + ttl_seconds * NANO,
        )

    def _start(self, call: Call[Engine], machine_id: str, boot: Boot) -> Machine:
        call.progress("starting the machine", None)
        return self._fleet.start(machine_id, boot, call.progress)

    def _exec(
        self,
        call: Call[Engine],
        machine: Machine,
        command: str | list[str],
        timeout_seconds: int,
        stdin: bytes | Iterable[bytes] | None,
    ) -> dict[str, Any]:
        try:
            done = run_command(call, machine, command, timeout_seconds=timeout_seconds, stdin=stdin)
        except PyroError:
            self._told_to_end(machine)
            raise
        if done["signal"]:
            # An agent that is asked to leave may still have the time to report the command it killed.
            self._told_to_end(machine)
        self._engine.faults("executed")
        return done

    def _told_to_end(self, machine: Machine) -> None:
        """Raises `TimedOut` when the fleet itself has ended `machine` under a running command."""
        why = self._fleet.ended_because(machine.machine_id)
        if why is not None:
            raise TimedOut(f"cannot finish the command: {machine.machine_id} was removed meanwhile: {why}") from None


class _Removal:
    """Removes a machine on leaving the block. A failure to do so is the block's error only if it has none itself;
    after a result it is told in `outcome`, because the result is worth more."""

    def __init__(self, engine: Engine, machine_id: str, why: str) -> None:
        self._engine = engine
        self._machine_id = machine_id
        self._why = why
        self.outcome = Cleanup(deleted=False, reason="not removed yet")

    def __enter__(self) -> _Removal:
        return self

    def __exit__(self, *_: object) -> None:
        fleet = self._engine.fleet
        try:
            mine = fleet.remove(self._machine_id, self._why)
            reason = self._why if mine else fleet.ended_because(self._machine_id) or "it was gone already"
            self.outcome = Cleanup(deleted=True, reason=reason)
        except PyroError as error:
            print(f"cannot remove {self._machine_id}: {error}")
            self.outcome = Cleanup(deleted=False, reason=error.message)
        finally:
            fleet.forget_end(self._machine_id)


def vm_of(row: MachineRow) -> Vm:
    """A machine as the surfaces show it."""
    metadata = {"reason": row.reason} if row.reason else {}
    return Vm(
        vm_id=row.machine_id,
        environment=row.environment,
        state=_SHOWN_STATE.get(row.state, cast(VmState, row.state)),
        vcpu_count=row.vcpu_count,
        mem_mib=row.mem_mib,
        created_at=datetime.fromtimestamp(row.created_at, UTC),
        expires_at=datetime.fromtimestamp(row.expires_at, UTC),
        ttl_seconds=row.ttl_seconds,
        network_enabled=False,
        execution_mode=cast(ExecutionMode, row.execution_mode),
        isolation=None if row.state == "created" else cast(Isolation, row.isolation),
        metadata=metadata,
    )
