"""Addresses: which ones a guest may be connected to, decided by the address that is really dialled.

Only globally reachable unicast is open by itself. An IPv6 address that stands for an IPv4 one (mapped, translated,
6to4, Teredo) is judged as what it leads to. A network given with `--allow-address` opens what is refused here, with
two limits: what would reach the host itself or a cloud's metadata opens only when it is listed exactly, never as
part of a wider network; and what is no place to connect to (multicast, broadcast, reserved) never opens. Pure: no I/O.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

Openness = Literal["network", "exact", "never"]
"""What `--allow-address` can do about a refusal: any network around the address, only the address itself, nothing."""

METADATA = frozenset(
    ipaddress.ip_address(text)
    for text in (
        *("169.254.169.254", "168.63.129.16", "100.100.100.200", "192.0.0.192"),
        # Amazon's, and its credentials for pods; Google's, Oracle's, Alibaba's, Scaleway's and Akamai's.
        *("fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "fd00:c1::a9fe:a9fe", "fd00:100::100:200"),
        *("fd00:42::42", "fd00:a9fe:a9fe::1"),
    )
)

_SPECIAL: tuple[tuple[str, str, Openness], ...] = (
    ("0.0.0.0/8", "the host itself", "exact"),
    ("127.0.0.0/8", "loopback: the host itself", "exact"),
    ("10.0.0.0/8", "a private address", "network"),
    ("172.16.0.0/12", "a private address", "network"),
    ("192.168.0.0/16", "a private address", "network"),
    ("100.64.0.0/10", "a carrier's shared address", "network"),
    ("169.254.0.0/16", "link-local", "exact"),
    ("192.0.0.0/24", "reserved for protocols", "network"),
    ("192.0.2.0/24", "a documentation address", "network"),
    ("198.51.100.0/24", "a documentation address", "network"),
    ("203.0.113.0/24", "a documentation address", "network"),
    ("198.18.0.0/15", "a benchmarking address", "network"),
    ("192.88.99.0/24", "a 6to4 relay", "network"),
    ("224.0.0.0/4", "multicast", "never"),
    ("255.255.255.255/32", "broadcast", "never"),
    ("240.0.0.0/4", "reserved", "never"),
    ("::/128", "the host itself", "exact"),
    ("::1/128", "loopback: the host itself", "exact"),
    ("fe80::/10", "link-local", "exact"),
    ("fec0::/10", "site-local", "network"),
    ("fc00::/7", "a private address", "network"),
    ("ff00::/8", "multicast", "never"),
    ("64:ff9b:1::/48", "a translator's local address", "network"),
    ("2001:db8::/32", "a documentation address", "network"),
    ("3fff::/20", "a documentation address", "network"),
    ("2001::/23", "reserved for protocols", "network"),
)
_TABLE = tuple((ipaddress.ip_network(network), what, openness) for network, what, openness in _SPECIAL)
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
_TEREDO = ipaddress.IPv6Network("2001::/32")
_SIX_TO_FOUR = ipaddress.IPv6Network("2002::/16")
_LAST_32 = tuple(map(ipaddress.IPv6Network, ("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96")))
"""Compatible, mapped, translated and NAT64: the last 32 bits are the address they lead to."""


@dataclass(frozen=True)
class Special:
    """Why an address is not open by itself."""

    what: str
    openness: Openness


def parse(text: str) -> Address:
    """The one address that `text` writes in the usual form. Raises `ValueError` for short, octal or scoped ones.

    A mapped IPv4 address comes back as the IPv4 address that it reaches.
    """
    if "%" in text or not text.isascii():
        raise ValueError(f"{text[:64]!r} is not an address")
    address = ipaddress.ip_address(text)
    return getattr(address, "ipv4_mapped", None) or address


def parse_network(text: str) -> Network:
    """The network that `text` writes, an address alone being a network of one. Raises `ValueError` with the reason.

    Bits to the right of the prefix are refused: whoever writes 10.0.0.5/8 means one of two things.
    """
    if "%" in text or not text.isascii() or text != text.strip():
        raise ValueError("it is neither an address nor a network such as 203.0.113.0/24")
    _, slash, length = text.partition("/")
    if slash and not (length.isdigit() and len(length) <= 3):
        raise ValueError("the prefix length after / is a number, such as 203.0.113.0/24")
    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        if "host bits" in str(error):
            wider, address = ipaddress.ip_network(text, strict=False), text.partition("/")[0]
            raise ValueError(f"it has bits set past its prefix; write {wider}, or {address} alone") from None
        raise ValueError("it is neither an address nor a network such as 203.0.113.0/24") from None
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.IPv4Network((mapped, network.prefixlen - 96))
    return network


def special(address: Address) -> Special | None:
    """Why `address` is not open by itself; None for a public one."""
    if address in METADATA:
        return Special("a cloud's metadata service", "exact")
    inside = embedded(address)
    if inside:
        found = [(one, special(one)) for one in inside]
        worst, why = max(found, key=lambda pair: _SEVERITY[pair[1].openness] if pair[1] else -1)
        return why and Special(f"another form of {worst}, {why.what}", why.openness)
    for network, what, openness in _TABLE:
        if address.version == network.version and address in network:
            return Special(what, openness)
    if address.version == 4 or address in _GLOBAL_V6:
        return None
    return Special("not a global unicast address", "network")


_SEVERITY = {"network": 0, "exact": 1, "never": 2}


def embedded(address: Address) -> tuple[ipaddress.IPv4Address, ...]:
    """The IPv4 addresses that an IPv6 one leads to through a translator or tunnel; empty for any other."""
    if isinstance(address, ipaddress.IPv4Address) or int(address) <= 1:
        return ()
    number = int(address)
    if address in _TEREDO:
        # The server, and the client's address with its bits inverted.
        return ipaddress.IPv4Address(number >> 64 & 0xFFFFFFFF), ipaddress.IPv4Address(~number & 0xFFFFFFFF)
    if address in _SIX_TO_FOUR:
        return (ipaddress.IPv4Address(number >> 80 & 0xFFFFFFFF),)
    if any(address in network for network in _LAST_32):
        return (ipaddress.IPv4Address(number & 0xFFFFFFFF),)
    return ()


def opened(address: Address, openness: Openness, allowed: Iterable[Network]) -> bool:
    """Whether the networks `allowed` by the user open an address that is refused with `openness`."""
    if openness == "never":
        return False
    return any(
        address.version == network.version
        and address in network
        and (openness == "network" or network.num_addresses == 1)
        for network in allowed
    )
