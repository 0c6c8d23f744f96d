"""Routes: what the kernel would do with a packet to an address, asked of the kernel itself.

Its answer covers every interface, alias, broadcast address and policy route of this network namespace at this
moment, which no list of addresses made earlier does. Needs no privilege.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from typing import Literal

Route = Literal["away", "here", "nowhere"]
"""`away`: to another machine. `here`: to this host itself, or to everybody on a link. `nowhere`: there is no way."""

_NEWROUTE, _GETROUTE, _REQUEST, _DST, _ERROR = 24, 26, 1, 1, 2
_HEADER, _RTMSG, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=BBBBBBBBI"), struct.Struct("=HH")
_ERRNO = struct.Struct("=i")
_UNICAST, _NO_WAY = 1, frozenset({6, 7, 8, 9})
_NO_ROUTE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL, errno.EAFNOSUPPORT})
ANSWER_SECONDS = 2.0


def route_to(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> Route:
    """Where a connection to `address` would go now. Raises `OSError` when the kernel does not say."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    target = address.packed
    body = _RTMSG.pack(family, len(target) * 8, 0, 0, 0, 0, 0, 0, 0)
    body += _ATTRIBUTE.pack(_ATTRIBUTE.size + len(target), _DST) + target
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as kernel:
        kernel.settimeout(ANSWER_SECONDS)
        kernel.sendto(_HEADER.pack(_HEADER.size + len(body), _GETROUTE, _REQUEST, 1, 0) + body, (0, 0))
        answer = kernel.recv(65536)
    return _read(answer)


def has_way_to(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether there is any route to `address`."""
    return route_to(address) != "nowhere"


def _read(answer: bytes) -> Route:
    kind = _HEADER.unpack_from(answer)[1]
    if kind == _NEWROUTE:
        route = _RTMSG.unpack_from(answer, _HEADER.size)[7]
        return "away" if route == _UNICAST else "nowhere" if route in _NO_WAY else "here"
    code = -_ERRNO.unpack_from(answer, _HEADER.size)[0] if kind == _ERROR else errno.EBADMSG
    if code in _NO_ROUTE:
        return "nowhere"
    raise OSError(code, os.strerror(code))
