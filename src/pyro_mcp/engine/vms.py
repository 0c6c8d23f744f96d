"""The `vm` verbs: create a machine, run one command in it, and delete it.

`run` makes a machine that nobody else knows and always removes it: after the result, an error, a cancel, and, through
the store, after the node's own death.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, cast

from pyro_mcp.engine.commands.hint import hint_of
from pyro_mcp.engine.commands.run import run_command
from pyro_mcp.engine.faults import Faults
from pyro_mcp.engine.fleet.fleet import BootSpec, Fleet
from pyro_mcp.engine.fleet.images import Images
from pyro_mcp.engine.fleet.networks import Networks
from pyro_mcp.engine.fleet.provision import Provisioner
from pyro_mcp.errors import Conflict, PyroError, TimedOut
from pyro_mcp.machines.driver import Machine
from pyro_mcp.model.machine import ReapResult, Vm, VmDeleted, VmNetwork, VmState
from pyro_mcp.model.names import check_variables
from pyro_mcp.model.process import Cleanup, ExecutionMode, Isolation, RunResult
from pyro_mcp.model.size import MachineSize
from pyro_mcp.operations.call import Call
from pyro_mcp.store.machines import MachineRow

_log = logging.getLogger(__name__)

SCRATCH_MIB = 8192
_SHOWN_STATE: dict[str, VmState] = {"creating": "starting", "running": "started", "deleting": "stopping"}


class Vms:
    """The machines that stand alone."""

    def __init__(
        self, fleet: Fleet, provisioner: Provisioner, images: Images, networks: Networks, faults: Faults
    ) -> None:
        self._fleet = fleet
        self._provisioner = provisioner
        self._images = images
        self._networks = networks
        self._faults = faults

    def run(
        self,
        call: Call[Any],
        environment: str,
        *,
        command: str | list[str],
        timeout_seconds: int,
        stdin: bytes | Iterable[bytes] | None,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        **options: Any,
    ) -> RunResult:
        """Make, use and remove one machine. Raises what making and using it raise; it is removed in any case."""
        env = check_variables(env)
        boot, row = self._provisioned(call, environment, one_shot=True, **options)
        self._fleet.admit(row)
        removal = _Removal(self._fleet, row.machine_id, "one-shot machine")
        with removal:
            self._images.lease(row)
            machine = self._start(call, row.machine_id, boot)
            call.check()
            done = self._exec(call, machine, command, cwd=cwd, env=env, timeout_seconds=timeout_seconds, stdin=stdin)
        hint = _hint(row, done, "<<run_in_vm.network>> gives it one")
        return RunResult(**done, vm_id=row.machine_id, environment=environment, cleanup=removal.outcome, hint=hint)

    def create(self, call: Call[Any], environment: str, **options: Any) -> Vm:
        _, row = self._provisioned(call, environment, one_shot=False, **options)
        self._fleet.admit(row)
        try:
            self._images.lease(row)
            call.check()
        except PyroError:
            self._fleet.remove(row.machine_id, "it could not be created")
            raise
        return vm_of(self._fleet.created(row.machine_id))

    def start(self, call: Call[Any], machine_id: str) -> Vm:
        row = self._own(machine_id)
        if row.state != "running":
            self._start(call, machine_id, self._provisioner.again(call, row))
        return vm_of(self._fleet.get(machine_id))

    def exec(
        self,
        call: Call[Any],
        machine_id: str,
        *,
        command: str | list[str],
        timeout_seconds: int,
        stdin: bytes | Iterable[bytes] | None,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> RunResult:
        """One command in a running machine, which is removed afterwards. Raises `NotFound` and `Conflict` before."""
        env = check_variables(env)
        row = self._own(machine_id)
        machine = self._fleet.live(machine_id)
        removal = _Removal(self._fleet, machine_id, "it ran its one command")
        with removal:
            done = self._exec(call, machine, command, cwd=cwd, env=env, timeout_seconds=timeout_seconds, stdin=stdin)
        hint = _hint(row, done, "create one that has with <<create_vm.network>>")
        return RunResult(**done, vm_id=machine_id, environment=row.environment, cleanup=removal.outcome, hint=hint)

    def stop(self, machine_id: str) -> Vm:
        self._own(machine_id)
        return vm_of(self._fleet.stop(machine_id))

    def delete(self, machine_id: str) -> VmDeleted:
        self._own(machine_id)
        deleted = self._fleet.remove(machine_id, "asked to")
        return VmDeleted(vm_id=machine_id, deleted=deleted, reason="asked to")

    def status(self, machine_id: str) -> Vm:
        return vm_of(self._own(machine_id))

    def network(self, machine_id: str) -> VmNetwork:
        """Of any machine, because nothing is done to it."""
        return self._networks.info(self._fleet.get(machine_id))

    def reap(self) -> ReapResult:
        gone = self._fleet.reap()
        return ReapResult(count=len(gone), vm_ids=gone)

    # -- parts

    def _own(self, machine_id: str) -> MachineRow:
        """The machine, if the vm verbs may touch it. Raises `NotFound`, or `Conflict` when a workspace lives in it."""
        row = self._fleet.get(machine_id)
        if row.workspace_id is not None:
            raise Conflict(
                f"cannot use the machine {machine_id}: the workspace {row.workspace_id} lives in it",
                hint="Use the workspace verbs with the workspace's id",
            )
        return row

    def _provisioned(
        self,
        call: Call[Any],
        environment: str,
        *,
        one_shot: bool,
        vcpu_count: int,
        mem_mib: int,
        ttl_seconds: int,
        network: bool,
        allow_host_compat: bool,
        allow_hosts: list[str] | None = None,
        allow_addresses: list[str] | None = None,
        host_ca: bool = False,
    ) -> tuple[BootSpec, MachineRow]:
        size = MachineSize(vcpu_count, mem_mib, SCRATCH_MIB)
        asked = self._networks.asked(
            "egress" if network else "off", allow_hosts=allow_hosts, allow_addresses=allow_addresses, host_ca=host_ca
        )
        boot = self._provisioner.prepare(call, environment, size, allow_host_compat=allow_host_compat)
        self._networks.check(call, boot.driver.capabilities, asked)
        made = self._provisioner.row(environment, boot, size, one_shot=one_shot, ttl_seconds=ttl_seconds, network=asked)
        return boot, made

    def _start(self, call: Call[Any], machine_id: str, boot: BootSpec) -> Machine:
        call.progress("starting the machine", None)
        return self._fleet.start(machine_id, boot, call.progress)

    def _exec(self, call: Call[Any], machine: Machine, command: str | list[str], **how: Any) -> dict[str, Any]:
        try:
            with contextlib.closing(self._networks.watch(machine.machine_id)) as watch:
                done = run_command(call, machine, command, **how)
        except PyroError:
            self._told_to_end(machine)
            raise
        if done["signal"]:
            # An agent that is asked to leave may still have the time to report the command it killed.
            self._told_to_end(machine)
        self._faults("executed")
        return {**done, "network_refusals": watch.refusals()}

    def _told_to_end(self, machine: Machine) -> None:
        """Raises `TimedOut` when the fleet itself has ended `machine` under a running command."""
        why = self._fleet.ended_because(machine.machine_id)
        if why is not None:
            raise TimedOut(f"cannot finish the command: {machine.machine_id} was removed meanwhile: {why}") from None


class _Removal:
    """Removes a machine on leaving the block. A failure to do so is the block's error only if it has none itself;
    after a result it is reported in `outcome`, because the result is worth more."""

    def __init__(self, fleet: Fleet, machine_id: str, why: str) -> None:
        self._fleet = fleet
        self._machine_id = machine_id
        self._why = why
        self.outcome = Cleanup(deleted=False, reason="not removed yet")

    def __enter__(self) -> _Removal:
        return self

    def __exit__(self, *_: object) -> None:
        fleet = self._fleet
        try:
            mine = fleet.remove(self._machine_id, self._why)
            reason = self._why if mine else fleet.ended_because(self._machine_id) or "it was gone already"
            self.outcome = Cleanup(deleted=True, reason=reason)
        except PyroError as error:
            _log.warning(f"cannot remove {self._machine_id}: {error}")
            self.outcome = Cleanup(deleted=False, reason=error.message)
        finally:
            fleet.forget_end(self._machine_id)


def _hint(row: MachineRow, done: dict[str, Any], way_out: str) -> str | None:
    """What may help, where the command is `done` and failed."""
    offline = row.execution_mode == "guest" and not row.network
    streams = done["stdout"], done["stderr"]
    return hint_of(done["exit_code"], *streams, environment=row.environment, way_out=way_out if offline else None)


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
        network_enabled=bool(row.network),
        execution_mode=cast(ExecutionMode, row.execution_mode),
        isolation=None if row.state == "created" else cast(Isolation, row.isolation),
        metadata=metadata,
    )
