"""Vm: machines step by step: create, start, exec, stop, delete."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyro_mcp.api.params import (
    AllowAddresses,
    AllowHostCompat,
    AllowHosts,
    Command,
    Env,
    EnvironmentName,
    HomeCwd,
    HostCa,
    MemMib,
    Network,
    Stdin,
    TimeoutSeconds,
    TtlSeconds,
    VcpuCount,
    VmId,
)
from pyro_mcp.model.machine import ReapResult, Vm, VmDeleted, VmNetwork
from pyro_mcp.model.process import RunResult
from pyro_mcp.operations.inputs import narrowed
from pyro_mcp.operations.operation import Effects, operation

if TYPE_CHECKING:
    from pyro_mcp.engine.engine import Engine
    from pyro_mcp.operations.call import Call

_READ = Effects(read_only=True, idempotent=True)


@operation(tool="vm_create", title="Create a machine", effects=Effects())
def create_vm(
    call: Call[Engine],
    environment: EnvironmentName,
    *,
    vcpu_count: VcpuCount = 1,
    mem_mib: MemMib = 1024,
    ttl_seconds: TtlSeconds = 600,
    network: Network = False,
    allow_hosts: AllowHosts | None = None,
    allow_addresses: AllowAddresses | None = None,
    host_ca: HostCa = False,
    allow_host_compat: AllowHostCompat = False,
) -> Vm:
    """Create a machine that is not started yet.

    It holds its place until it is deleted or expires.
    """
    return call.engine.vms.create(
        call,
        environment,
        vcpu_count=vcpu_count,
        mem_mib=mem_mib,
        ttl_seconds=ttl_seconds,
        network=network,
        allow_hosts=allow_hosts,
        allow_addresses=allow_addresses,
        host_ca=host_ca,
        allow_host_compat=allow_host_compat,
    )


@operation(tool="vm_start", title="Start a machine", effects=Effects(idempotent=True))
def start_vm(call: Call[Engine], vm_id: VmId) -> Vm:
    """Start a created or stopped machine and wait until commands can run in it."""
    return call.engine.vms.start(call, vm_id)


@operation(tool="vm_exec", title="Run a command in a machine, then delete it", effects=Effects())
def exec_vm(
    call: Call[Engine],
    vm_id: VmId,
    *,
    command: Command,
    cwd: HomeCwd | None = None,
    env: Env | None = None,
    timeout_seconds: TimeoutSeconds = 30,
    stdin: Stdin = None,
) -> RunResult:
    """Run one command in a started machine, then delete that machine.

    A non-zero exit code is a result, not an error.
    """
    return call.engine.vms.exec(
        call, vm_id, command=command, cwd=cwd, env=env, timeout_seconds=timeout_seconds, stdin=narrowed(stdin)
    )


@operation(tool="vm_stop", title="Stop a machine", effects=Effects(idempotent=True))
def stop_vm(call: Call[Engine], vm_id: VmId) -> Vm:
    """Stop a machine; its disk stays, what ran in it ends."""
    return call.engine.vms.stop(vm_id)


@operation(tool="vm_delete", title="Delete a machine", effects=Effects(destructive=True))
def delete_vm(call: Call[Engine], vm_id: VmId) -> VmDeleted:
    """Delete a machine and everything it wrote, whatever its state."""
    return call.engine.vms.delete(vm_id)


@operation(tool="vm_status", title="Show a machine", effects=_READ)
def status_vm(call: Call[Engine], vm_id: VmId) -> Vm:
    """Show a machine: its state, size and when it expires."""
    return call.engine.vms.status(vm_id)


@operation(tool="vm_network_info", title="Show a machine's network", effects=_READ)
def network_info_vm(call: Call[Engine], vm_id: VmId) -> VmNetwork:
    """Show what a machine can reach."""
    return call.engine.vms.network(vm_id)


@operation(tool="vm_reap_expired", title="Delete expired machines", effects=Effects(destructive=True, idempotent=True))
def reap_expired(call: Call[Engine]) -> ReapResult:
    """Delete every machine that has expired, without waiting for the node to do it."""
    return call.engine.vms.reap()
