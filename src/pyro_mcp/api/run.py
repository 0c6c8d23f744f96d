"""Run: one command in a machine of its own."""

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
)
from pyro_mcp.model.process import RunResult
from pyro_mcp.operations.inputs import narrowed
from pyro_mcp.operations.operation import Effects, operation

if TYPE_CHECKING:
    from pyro_mcp.engine.engine import Engine
    from pyro_mcp.operations.call import Call


@operation(cli=("run",), tool="vm_run", title="Run a command in a fresh machine", effects=Effects())
def run_in_vm(
    call: Call[Engine],
    environment: EnvironmentName,
    *,
    command: Command,
    cwd: HomeCwd | None = None,
    env: Env | None = None,
    vcpu_count: VcpuCount = 1,
    mem_mib: MemMib = 1024,
    timeout_seconds: TimeoutSeconds = 30,
    ttl_seconds: TtlSeconds = 600,
    network: Network = False,
    allow_hosts: AllowHosts | None = None,
    allow_addresses: AllowAddresses | None = None,
    host_ca: HostCa = False,
    allow_host_compat: AllowHostCompat = False,
    stdin: Stdin = None,
) -> RunResult:
    """Run one command in a fresh virtual machine, which is deleted afterwards.

    It is an isolated sandbox to run code safely in and, unlike a container, has a kernel of its own. Nothing of this
    host is visible inside, and nothing remains. It has no network; <<run_in_vm.network>> gives it one. A non-zero exit
    code is a result, not an error.
    """
    return call.engine.vms.run(
        call,
        environment,
        command=command,
        cwd=cwd,
        env=env,
        vcpu_count=vcpu_count,
        mem_mib=mem_mib,
        timeout_seconds=timeout_seconds,
        ttl_seconds=ttl_seconds,
        network=network,
        allow_hosts=allow_hosts,
        allow_addresses=allow_addresses,
        host_ca=host_ca,
        allow_host_compat=allow_host_compat,
        stdin=narrowed(stdin),
    )
