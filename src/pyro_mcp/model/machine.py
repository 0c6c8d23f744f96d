"""Machine results: what a `vm` verb answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from pyro_mcp.model.network import NetworkTotals
from pyro_mcp.model.process import ExecutionMode, Isolation
from pyro_mcp.model.result import Result

VmState = Literal["created", "starting", "started", "stopping", "stopped", "failed"]


@dataclass(frozen=True, kw_only=True)
class Vm(Result):
    """A machine. It is deleted by itself at `expires_at` (UTC), `ttl_seconds` after `created_at`.

    `isolation` is null until the machine has started for the first time.
    """

    vm_id: str
    environment: str
    state: VmState
    vcpu_count: int
    mem_mib: int
    created_at: datetime
    expires_at: datetime
    ttl_seconds: int
    network_enabled: bool
    execution_mode: ExecutionMode
    isolation: Isolation | None = None
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class VmDeleted(Result):
    """A machine that is gone, with everything it wrote."""

    vm_id: str
    deleted: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class VmNetwork(Result):
    """What a machine can reach. Without `network_enabled` it has no way out and none in.

    `enforced` false says that nothing holds what runs there to the policy: it has this host's network (`host_compat`).
    `allow_hosts` null allows every public host name and an empty list none; `allow_addresses` are open although they
    are not public; with `host_ca` it trusts what this host trusts. `guest_ip` is null without a network. Counts are
    since the machine was made.
    """

    vm_id: str
    network_enabled: bool
    network_policy: str
    guest_ip: str | None = None
    execution_mode: ExecutionMode = "guest"
    isolation: Isolation | None = None
    enforced: bool = True
    allow_hosts: list[str] | None = None
    allow_addresses: list[str] = field(default_factory=list)
    host_ca: bool = False
    open_connections: int = 0
    totals: NetworkTotals = field(default_factory=NetworkTotals)


@dataclass(frozen=True, kw_only=True)
class ReapResult(Result):
    """The machines that had expired and are gone now."""

    count: int
    vm_ids: list[str]
