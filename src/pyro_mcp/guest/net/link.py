"""link: an interface that leads nowhere, so that programs find a route and try to connect.

What is sent to it never arrives: new connections are turned round before, see `rules`. Its address is from 192.0.0.0/29
(RFC 7335), which hosts use for themselves and no network routes, so it hides nothing that a policy could allow; the
IPv6 address is from a unique local prefix. Each stands alone in its network (/32, /128). Packets are as large as can
be: every one costs the guest the same, and none of them meets a wire.
"""

from __future__ import annotations

import _socket
import struct

from pyro_mcp.guest.net.netlink import ACK, CREATE, EXCLUSIVE, ROUTE, Netlink, attribute, nested, text

NAME = "pyro0"
ADDRESS, ADDRESS6 = "192.0.0.2", "fd70:7972:6f00::2"
MTU = 65520
_NEW_LINK, _NEW_ADDRESS, _NEW_ROUTE = 16, 20, 24
_NEW = ACK | CREATE | EXCLUSIVE
_UP = 1
_NO_DETECTION = 2
_MAIN_TABLE, _STATIC, _UNICAST = 254, 4, 1
_LINK_SCOPE = {_socket.AF_INET: 253, _socket.AF_INET6: 0}


def create(*, ipv6: bool) -> None:
    """Make the interface, its addresses and the default routes. Raises `OSError`."""
    netlink = Netlink(ROUTE)
    try:
        netlink.request((_NEW_LINK, _NEW, _dummy()))
        index = _socket.if_nametoindex(NAME)
        for family, address in _addresses(ipv6):
            netlink.request((_NEW_ADDRESS, _NEW, _address(family, index, address)))
            netlink.request((_NEW_ROUTE, _NEW, _default_route(family, index)))
    finally:
        netlink.close()


def _addresses(ipv6: bool) -> list[tuple[int, str]]:
    return [(_socket.AF_INET, ADDRESS)] + ([(_socket.AF_INET6, ADDRESS6)] if ipv6 else [])


def _dummy() -> bytes:
    head = struct.pack("=BxHiII", _socket.AF_UNSPEC, 0, 0, _UP, _UP)
    kind = nested(18, text(1, "dummy"))
    return head + text(3, NAME) + attribute(4, struct.pack("=I", MTU)) + kind


def _address(family: int, index: int, address: str) -> bytes:
    raw = _socket.inet_pton(family, address)
    head = struct.pack("=BBBBi", family, len(raw) * 8, 0, 0, index)
    return head + attribute(2, raw) + attribute(1, raw) + attribute(8, struct.pack("=I", _NO_DETECTION))


def _default_route(family: int, index: int) -> bytes:
    head = struct.pack("=8BI", family, 0, 0, 0, _MAIN_TABLE, _STATIC, _LINK_SCOPE[family], _UNICAST, 0)
    return head + attribute(4, struct.pack("=i", index))
