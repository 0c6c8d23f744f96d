"""Catalog: the hosts by name."""

from __future__ import annotations

from pyro_mcp.errors import InvalidArgument
from pyro_mcp.hosts.claude_code import ClaudeCode
from pyro_mcp.hosts.codex import Codex
from pyro_mcp.hosts.contract import ChatHost, Where
from pyro_mcp.hosts.opencode import Opencode
from pyro_mcp.hosts.printed import PRINTED, Printed

CONNECTABLE: dict[str, type[ChatHost]] = {kind.name: kind for kind in (ClaudeCode, Codex, Opencode)}


def host(name: str, where: Where) -> ChatHost:
    """The host called `name`, seen from `where`. Raises `InvalidArgument`."""
    if name not in CONNECTABLE:
        known = ", ".join(CONNECTABLE)
        if name in PRINTED:
            hint = f"`pyro host print-config {name}` shows what to put where; connected are {known}."
            raise InvalidArgument(f"cannot connect {PRINTED[name].title}: pyro does not write its files", hint=hint)
        raise InvalidArgument(f"cannot use host {name[:64]!r}: unknown", hint=f"Hosts: {known}.")
    return CONNECTABLE[name](where)


def printed(name: str) -> Printed:
    """How an entry of the host called `name` looks. Raises `InvalidArgument`."""
    if name not in PRINTED:
        raise InvalidArgument(f"cannot use host {name[:64]!r}: unknown", hint=f"Hosts: {', '.join(PRINTED)}.")
    return PRINTED[name]
