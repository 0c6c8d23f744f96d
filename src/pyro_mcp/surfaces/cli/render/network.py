"""The network, for a person: what was refused and which option would allow it, and what went where."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pyro_mcp.model.count import count_of
from pyro_mcp.model.network import NetworkDestination, NetworkRefusal, SummaryNetwork
from pyro_mcp.surfaces.cli.escapes import plain
from pyro_mcp.surfaces.cli.output import Output
from pyro_mcp.surfaces.cli.render.common import size

LINES = 8
ON_CREATE = " on workspace create"


def tell_refusals(refusals: Iterable[NetworkRefusal], output: Output, where: str = ON_CREATE) -> None:
    """One line on stderr for each. `where` is the command that takes the option, unless it is the one that ran."""
    for one in refusals:
        output.notice(f"network: {refused(one, where)}")


def refused(one: NetworkRefusal, where: str = ON_CREATE) -> str:
    """A refusal in a line, with what would allow it."""
    times = f" ({count_of(one.count, 'time')})" if one.count > 1 else ""
    hint = f"; allow it with {one.hint}{where}" if one.hint else ""
    return f"refused {place(one.name, one.address, one.port)}{times}: {one.reason}{hint}"


def place(name: str | None, address: str | None, port: int | None) -> str:
    """Where something went or wanted to go: the name if there is one, and the address behind it."""
    where = name or address or ""
    shown = f"[{where}]" if port and ":" in where else where
    shown = f"{shown}:{port}" if port else shown
    return plain(f"{shown} ({address})" if name and address else shown)


def summed(network: SummaryNetwork) -> Iterator[str]:
    """The lines of a summary."""
    if network.network_policy == "off":
        yield "network    off" if network.enforced else "network    this host's: host_compat enforces no policy"
        return
    totals = network.totals
    kinds = ("allowed", totals.allowed), ("refused", totals.refused), ("failed", totals.failed)
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds if count) or "no connections"
    moved = f"; {size(totals.bytes_in)} in, {size(totals.bytes_out)} out" if totals.allowed else ""
    yield f"network    {network.network_policy}: {counts}{moved}"
    for one in network.refusals[:LINES]:
        yield f"  REFUSED  {refused(one).removeprefix('refused ')}"
    for failed in network.failures[:LINES]:
        times = f" ({count_of(failed.count, 'time')})" if failed.count > 1 else ""
        yield f"  FAILED   {place(failed.name, failed.address, failed.port)}{times}: {plain(failed.reason)}"
    for to in network.destinations[:LINES]:
        yield f"           {_went(to)}"
    if len(network.destinations) > LINES:
        yield f"           and {len(network.destinations) - LINES} more"


def _went(to: NetworkDestination) -> str:
    many = f"{count_of(to.connections, 'connection')}, " if to.connections > 1 else ""
    return f"{place(to.name, to.address, to.port)}: {many}{size(to.bytes_in)} in, {size(to.bytes_out)} out"
