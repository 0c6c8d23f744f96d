"""Policy: what a machine with egress may look up and connect to, and why not. Pure: no I/O, no clock.

Two questions, each with its own flag. May this name be looked up? (`--allow-host`) May this very address be dialled?
(`--allow-address`) With host names given, an address may be dialled only if it came out of an answer for one of them,
so that an address written down directly is refused; `--allow-address` opens what the address rule refuses and never
widens the names. Host names given as an empty list allow nothing; not given at all, they allow every public one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from pyro_mcp.errors import InvalidArgument
from pyro_mcp.network import names
from pyro_mcp.network.addresses import Address, Network, Openness, embedded, opened, parse_network, special
from pyro_mcp.system.routes import Route

Mode = Literal["off", "egress", "egress+published-ports"]
ENTRIES_MAX = 256
ASK_FOR_ONE = "Ask for one, with <<create_workspace.network_policy=egress>> or <<run_in_vm.network>>, or leave that out"
"""What to do where something is asked for that only a network has."""


@dataclass(frozen=True)
class Refusal:
    """Why something is not allowed, and what would allow it, if anything does."""

    reason: str
    hint: str | None


@dataclass(frozen=True)
class Policy:
    """What is in force for one machine."""

    mode: Mode = "off"
    allow_hosts: tuple[str, ...] | None = None
    allow_addresses: tuple[Network, ...] = ()

    @staticmethod
    def read(
        mode: str, allow_hosts: Iterable[str] | None = None, allow_addresses: Iterable[str] | None = None
    ) -> Policy:
        """The policy that a caller asks for. Raises `InvalidArgument` with the entry that cannot be used, and why."""
        if mode == "off" and (allow_hosts is not None or allow_addresses):
            raise InvalidArgument(
                "cannot set the network policy: hosts and addresses are allowed only where there is a network",
                hint=ASK_FOR_ONE,
            )
        return Policy(
            cast(Mode, mode),
            None if allow_hosts is None else _each("allow_hosts", allow_hosts, names.pattern),
            _each("allow_addresses", allow_addresses or (), parse_network),
        )

    def to_json(self) -> dict[str, Any]:
        """The policy as it is kept."""
        return {
            "mode": self.mode,
            "allow_hosts": None if self.allow_hosts is None else list(self.allow_hosts),
            "allow_addresses": [str(network) for network in self.allow_addresses],
        }

    @staticmethod
    def from_json(kept: Mapping[str, Any]) -> Policy:
        """The policy that was kept. One that cannot be read any more allows nothing."""
        mode = kept.get("mode", "off")
        if mode not in get_args(Mode):
            return Policy()
        try:
            return Policy.read(mode, kept.get("allow_hosts"), kept.get("allow_addresses"))
        except (InvalidArgument, TypeError, AttributeError):
            return Policy(cast(Mode, mode), allow_hosts=())

    @property
    def enabled(self) -> bool:
        return self.mode != "off"

    def refuse_name(self, name: str) -> Refusal | None:
        """Why `name`, in its one form, may not be looked up; None when it may."""
        if not self.enabled:
            return _OFF
        if self.allow_hosts is None or names.matches(name, self.allow_hosts):
            return None
        return Refusal("it is not among the allowed host names", f"<<create_workspace.allow_hosts={name}>>")

    def refuse_address(self, address: Address, route: Route) -> Refusal | None:
        """Why `address` may not be dialled whoever asked for it; None when it may. `route` is the kernel's opinion on
        where a connection to it, or to an IPv4 address that it stands for, would end now."""
        if not self.enabled:
            return _OFF
        found = special(address)
        if found is None and route != "here":
            return None
        openness: Openness = found.openness if found else "exact"
        reason = f"it is {found.what}" if found else "it is an address of this host"
        if route == "here" and openness == "network":
            # Opening the office's network must not open this host to its guests.
            openness, reason = "exact", "it is an address of this host"
        if opened(address, openness, self.allow_addresses):
            return None
        return Refusal(reason, None if openness == "never" else f"<<create_workspace.allow_addresses={address}>>")

    def refuse_unnamed(self) -> Refusal | None:
        """Why an address that came out of no answer may not be dialled; None when that does not matter."""
        if self.allow_hosts is None:
            return None
        if not self.allow_hosts:
            return Refusal("no host name is allowed", "<<create_workspace.allow_hosts=NAME>>")
        return Refusal(
            "it came out of no recent answer for an allowed host name",
            "<<create_workspace.allow_hosts=NAME>>, and use the name",
        )


_OFF = Refusal("the network policy is off", "<<create_workspace.network_policy=egress>>")


def forms(address: Address) -> tuple[Address, ...]:
    """`address` and the IPv4 addresses that it stands for: what must not lead to this host."""
    return (address, *embedded(address))


def _each(name: str, given: Iterable[str], read: Any) -> tuple[Any, ...]:
    entries: dict[Any, None] = {}
    for count, text in enumerate(given):
        if count >= ENTRIES_MAX:
            raise InvalidArgument(f"cannot use {name}: it was given more than {ENTRIES_MAX} times")
        try:
            entries[read(text)] = None
        except ValueError as error:
            raise InvalidArgument(f"cannot use {name} {text[:80]!r}: {error}", hint=_HINTS[name]) from None
    return tuple(entries)


_HINTS = {
    "allow_hosts": "Give a name such as example.com, or *.example.com for every name below it",
    "allow_addresses": "Give an address or a network, such as 203.0.113.7 or 203.0.113.0/24",
}
