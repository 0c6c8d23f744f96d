"""Network: what a machine may reach, and what it reached or tried to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pyro_mcp.model.result import Result

NetworkPolicy = Literal["off", "egress", "egress+published-ports"]
Verdict = Literal["allowed", "refused", "failed"]
GUEST_IP = "192.0.0.2"
"""The address of every guest that has a way out: of a range for a host's own use, which is routed nowhere. No packet
ever carries it: the guest's connections begin on this host."""

Key = tuple[str, str, str, str, int, str]


@dataclass
class Connection:
    """One connection on its way into the record. Not a result: it changes until it has ended.

    `port` 0: only the name was looked up. `failed`: allowed, but it did not come about, as `reason` says. `duration_ms`
    is None while it is open, or when the node ended meanwhile. `kept...` are the keeper's own: whether there is an
    entry at all, its number, and the bytes that are counted already.
    """

    machine_id: str
    at: float
    verdict: Verdict
    name: str
    address: str
    port: int
    reason: str = ""
    hint: str | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    duration_ms: int | None = None
    count: int = 1
    kept: bool = True
    kept_as: int | None = None
    kept_in: int = 0
    kept_out: int = 0

    @property
    def key(self) -> Key:
        """What equal refusals and failures have in common."""
        return (self.machine_id, self.verdict, self.name, self.address, self.port, self.reason)


@dataclass(frozen=True, kw_only=True)
class NetworkRefusal(Result):
    """Something the network policy refused, `count` times; look-ups of one name within seconds of each other are one.
    `name` is null for a bare address, `address` when it was a look-up that was refused, `port` likewise. `hint` is the
    parameter of create or run that would allow it, null when none does."""

    name: str | None
    address: str | None
    port: int | None
    reason: str
    hint: str | None
    count: int


@dataclass(frozen=True, kw_only=True)
class NetworkFailure(Result):
    """A connection that was allowed and did not come about, `count` times."""

    name: str | None
    address: str
    port: int
    reason: str
    count: int


@dataclass(frozen=True, kw_only=True)
class NetworkDestination(Result):
    """Where connections went. `bytes_in` came from there."""

    name: str | None
    address: str
    port: int
    connections: int
    bytes_in: int
    bytes_out: int


@dataclass(frozen=True, kw_only=True)
class NetworkTotals(Result):
    """How many connections came about, were refused (look-ups too) and failed; `forgotten` of them are counted here and
    kept nowhere else."""

    allowed: int = 0
    refused: int = 0
    failed: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    forgotten: int = 0


@dataclass(frozen=True, kw_only=True)
class SummaryNetwork(Result):
    """What went over the network. `destinations` are the busiest, `refusals` and `failures` the latest."""

    network_policy: NetworkPolicy = "off"
    enforced: bool = True
    totals: NetworkTotals = NetworkTotals()
    destinations: list[NetworkDestination] = field(default_factory=list)
    refusals: list[NetworkRefusal] = field(default_factory=list)
    failures: list[NetworkFailure] = field(default_factory=list)


def refusal_of(entry: Mapping[str, Any] | Any) -> NetworkRefusal:
    """One entry of the record, or of a watch."""
    return NetworkRefusal(
        name=entry["name"] or None,
        address=entry["address"] or None,
        port=entry["port"] or None,
        reason=entry["reason"],
        hint=entry["hint"],
        count=entry["count"],
    )
