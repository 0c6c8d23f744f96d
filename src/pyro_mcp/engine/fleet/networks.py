"""Networks: the policy that a machine gets, what it reached, and what it was refused.

A machine's policy stands in its row, so every node that comes finds it; the host's side of its way out is made here
when the machine starts or is adopted, and ends with its channel. Commands of one machine share it, so a refusal is
reported to every command that ran at that moment.
"""

from __future__ import annotations

import ipaddress
import logging
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from pyro_mcp.engine.fleet.drivers import Drivers
from pyro_mcp.engine.secrets.store import SecretManager
from pyro_mcp.errors import InvalidArgument, PyroError, Unsupported
from pyro_mcp.machines.driver import Capabilities, NetworkLink
from pyro_mcp.model.machine import VmNetwork
from pyro_mcp.model.network import (
    GUEST_IP,
    NetworkDestination,
    NetworkFailure,
    NetworkTotals,
    SummaryNetwork,
    refusal_of,
)
from pyro_mcp.model.process import ExecutionMode, Isolation
from pyro_mcp.network.egress import Egress
from pyro_mcp.network.policy import ASK_FOR_ONE, Policy
from pyro_mcp.network.record import Batch, Ledger, Recorder, Watch
from pyro_mcp.network.resolve import Resolver
from pyro_mcp.network.trust import host_bundle
from pyro_mcp.operations.call import Call
from pyro_mcp.protocol.workers import Workers
from pyro_mcp.store.connections import Connections
from pyro_mcp.store.database import Database
from pyro_mcp.store.machines import MachineRow
from pyro_mcp.system.clock import Clock
from pyro_mcp.system.routes import has_way_to

_log = logging.getLogger(__name__)

DESTINATIONS, REFUSALS, FAILURES = 20, 20, 10
_SOMEWHERE_V6 = ipaddress.IPv6Address("2600::")
UNENFORCED = "host_compat enforces no network policy: commands have this host's network"


class Networks:
    """The networks of all machines. `ca_file` is the bundle that `host_ca` hands to a guest."""

    def __init__(
        self, database: Database, secrets: SecretManager, drivers: Drivers, clock: Clock, ca_file: Path
    ) -> None:
        self._secrets = secrets
        self._drivers = drivers
        self._clock = clock
        self._ca_file = ca_file
        self._table = Connections(database)
        self._recorder = Recorder(self._write)
        self._lookups = Workers()
        self._live: dict[str, Egress] = {}
        self._lock = threading.Lock()

    # -- what a machine is given

    def asked(
        self,
        mode: str,
        *,
        allow_hosts: list[str] | None = None,
        allow_addresses: list[str] | None = None,
        host_ca: bool = False,
    ) -> dict[str, Any]:
        """The form that is kept of what somebody asks for. Raises `InvalidArgument` for a policy that cannot be, and
        what reading the host's certificates raises."""
        policy = Policy.read(mode, allow_hosts, allow_addresses)
        if not policy.enabled and not host_ca:
            return {}
        if not policy.enabled:
            raise InvalidArgument("cannot hand on this host's certificates: there is no network", hint=ASK_FOR_ONE)
        if host_ca:
            host_bundle(self._ca_file)
        return {**policy.to_json(), "host_ca": host_ca}

    def check(self, call: Call[Any], promised: Capabilities, kept: Mapping[str, Any]) -> None:
        """Say what a machine without a network of its own makes of the policy. Raises `Unsupported` for one that
        narrows: to run it anyway would allow what was forbidden in so many words."""
        policy = Policy.from_json(kept)
        if promised.network or not policy.enabled:
            return
        if policy.allow_hosts is not None:
            raise Unsupported(
                f"cannot narrow the network to host names: {UNENFORCED}",
                hint="Leave <<create_workspace.allow_hosts>> out, or use a guest",
            )
        call.notice(UNENFORCED)

    def link(self, row: MachineRow) -> NetworkLink | None:
        """The way out of the machine `row`; None when it has none. Raises what reading certificates raises."""
        if not Policy.from_json(row.network).enabled:
            return None
        ca = host_bundle(self._ca_file) if row.network.get("host_ca") is True else None
        return NetworkLink(self._egress(row).handle, ca, _has_ipv6())

    def relink(self, row: MachineRow) -> NetworkLink | None:
        """The same for a machine that runs and has its certificates already."""
        return self.link(replace(row, network={**row.network, "host_ca": False}))

    def forget(self, machine_id: str) -> None:
        """The machine is gone."""
        with self._lock:
            self._live.pop(machine_id, None)

    def close(self) -> None:
        """Write what is still to be recorded."""
        self._recorder.close()

    # -- what it was refused

    def watch(self, machine_id: str) -> Watch:
        """Collect the machine's refusals from now on."""
        egress = self._live.get(machine_id)
        return Watch() if egress is None else egress.ledger.watch()

    # -- what it did

    def info(self, row: MachineRow) -> VmNetwork:
        policy = Policy.from_json(row.network)
        enforced = self.enforced(row)
        egress = self._live.get(row.machine_id)
        return VmNetwork(
            vm_id=row.machine_id,
            network_enabled=policy.enabled,
            network_policy=policy.mode,
            guest_ip=GUEST_IP if policy.enabled and enforced else None,
            execution_mode=cast(ExecutionMode, row.execution_mode),
            isolation=cast(Isolation, row.isolation),
            enforced=enforced,
            **shown(row.network),
            open_connections=0 if egress is None else egress.open_count,
            totals=self._totals(row.machine_id),
        )

    def summary(self, row: MachineRow) -> SummaryNetwork:
        totals = self._totals(row.machine_id)
        return SummaryNetwork(
            network_policy=Policy.from_json(row.network).mode,
            enforced=self.enforced(row),
            totals=totals,
            destinations=[
                NetworkDestination(**{**dict(found), "name": found["name"] or None})
                for found in self._table.destinations(row.machine_id, DESTINATIONS)
            ],
            refusals=[refusal_of(found) for found in self._table.latest(row.machine_id, "refused", REFUSALS)],
            failures=[
                NetworkFailure(
                    name=found["name"] or None,
                    address=found["address"],
                    port=found["port"],
                    reason=found["reason"],
                    count=found["count"],
                )
                for found in self._table.latest(row.machine_id, "failed", FAILURES)
            ],
        )

    def enforced(self, row: MachineRow) -> bool:
        """Whether the machine is held to its policy."""
        return self._drivers.by_isolation(row.isolation).capabilities.network

    # -- parts

    def _egress(self, row: MachineRow) -> Egress:
        """The one egress of a machine, through all its starts in this node's life."""
        with self._lock:
            made = self._live.get(row.machine_id)
            if made is None:
                ledger = Ledger(row.machine_id, None if row.one_shot else self._recorder, self._clock.wall)
                resolver = Resolver(workers=self._lookups)
                made = Egress(Policy.from_json(row.network), ledger, resolver, mask=self._mask(row))
                self._live[row.machine_id] = made
        return made

    def _mask(self, row: MachineRow) -> Any:
        workspace_id = row.workspace_id
        if workspace_id is None:
            return str
        return lambda text: self._secrets.masks(workspace_id).text(text)

    def _totals(self, machine_id: str) -> NetworkTotals:
        try:
            self._recorder.flush()
        except PyroError as error:
            _log.warning(f"cannot record connections: {error}")
        return NetworkTotals(**self._table.totals(machine_id))

    def _write(self, batch: Batch) -> None:
        self._table.write(batch.begun.values(), batch.ended, batch.counted.values(), batch.overflow)


def shown(kept: Mapping[str, Any]) -> dict[str, Any]:
    """The policy as a status reports it."""
    policy = Policy.from_json(kept)
    return {
        "allow_hosts": None if policy.allow_hosts is None else list(policy.allow_hosts),
        "allow_addresses": [str(network) for network in policy.allow_addresses],
        "host_ca": kept.get("host_ca") is True,
    }


def _has_ipv6() -> bool:
    try:
        return has_way_to(_SOMEWHERE_V6)
    except OSError:
        return False
