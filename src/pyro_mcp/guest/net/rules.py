"""rules: the packet filter of a guest with egress, written to nf_tables as one transaction.

    table inet pyro {
        chain outgoing { type filter hook output priority -150
            oif lo accept
            meta mark REFUSED      reject with tcp reset
            meta mark FORBIDDEN    reject with icmpx admin-prohibited
            meta mark UNREACHABLE  reject with icmpx host-unreachable
            udp dport 53 accept
            meta l4proto != tcp    reject with icmpx admin-prohibited
            tcp dport 53 accept
            tcp flags & (fin|syn|rst|ack) == syn queue num QUEUE
        }
        chain turned { type nat hook output priority -100
            oif lo accept
            udp dport 53 redirect to :DNS
            tcp dport 53 redirect to :DNS
            meta l4proto tcp redirect to :CONNECTIONS
        }
    }

A first packet waits in the queue until the host has answered. "No" sends it through the chain again with a mark, by
which it is rejected, so that `connect` fails with the true reason; "yes" lets it go on, and it is turned round to
the agent. A queue without a listener drops, and so do the routes: without the agent nothing works, and nothing
leaks. Redirected packets go to the loopback address, never to the interface's, where the agent does not listen.
"""

from __future__ import annotations

import _socket
import struct
from typing import NamedTuple

from pyro_mcp.guest.net.netlink import ACK, APPEND, CREATE, NETFILTER, Netlink, attribute, be16, be32, nested, text

TABLE = "pyro"
QUEUE = 7079
REFUSED, FORBIDDEN, UNREACHABLE = 0x70790001, 0x70790002, 0x70790003
"""Marks of packets that the host refused: by the far end, by policy, and for want of a way."""

_SUBSYSTEM = 10
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_NEW_TABLE, _NEW_CHAIN, _NEW_RULE = 0, 3, 6
_INET = 1
_OUTPUT = 3
_REGISTER = 1
_EQUAL, _UNEQUAL = 0, 1
_MARK, _OIF, _L4PROTO = 3, 5, 16
_TRANSPORT = 2
_LOOPBACK_INDEX = 1
_TCP_FLAGS_AT = 13
_SYN, _OPENING = 0x02, 0x17
_DNS_PORT = 53
_HOST_UNREACHABLE, _ADMIN_PROHIBITED = 2, 3
_RESET, _UNREACH_ANY = 1, 2


class AgentPorts(NamedTuple):
    """Where the agent listens on the loopback addresses."""

    dns: int
    connections: int


def install(ports: AgentPorts) -> None:
    """Put the rules in force, all or none. Raises `OSError`."""
    netlink = Netlink(NETFILTER)
    try:
        netlink.request(
            (_BATCH_BEGIN, 0, _head(_socket.AF_UNSPEC, _SUBSYSTEM)),
            *((_SUBSYSTEM << 8 | kind, flags | ACK, _head(_INET) + body) for kind, flags, body in ruleset(ports)),
            (_BATCH_END, 0, _head(_socket.AF_UNSPEC, _SUBSYSTEM)),
        )
    finally:
        netlink.close()


def ruleset(ports: AgentPorts) -> list[tuple[int, int, bytes]]:
    """The messages: type, flags, attributes."""
    outgoing = [
        _when_loopback() + _accept(),
        _when_mark(REFUSED) + _reject(_RESET),
        _when_mark(FORBIDDEN) + _reject(_UNREACH_ANY, _ADMIN_PROHIBITED),
        _when_mark(UNREACHABLE) + _reject(_UNREACH_ANY, _HOST_UNREACHABLE),
        _when_port(_socket.IPPROTO_UDP, _DNS_PORT) + _accept(),
        _when_protocol(_socket.IPPROTO_TCP, _UNEQUAL) + _reject(_UNREACH_ANY, _ADMIN_PROHIBITED),
        _when_port(_socket.IPPROTO_TCP, _DNS_PORT) + _accept(),
        _when_opening() + _expression("queue", be16(1, QUEUE), be16(2, 1), be16(3, 0)),
    ]
    turned = [
        _when_loopback() + _accept(),
        _when_port(_socket.IPPROTO_UDP, _DNS_PORT) + _redirect(ports.dns),
        _when_port(_socket.IPPROTO_TCP, _DNS_PORT) + _redirect(ports.dns),
        _when_protocol(_socket.IPPROTO_TCP) + _redirect(ports.connections),
    ]
    return [
        (_NEW_TABLE, CREATE, text(1, TABLE) + be32(2, 0)),
        (_NEW_CHAIN, CREATE, _chain("outgoing", "filter", -150)),
        (_NEW_CHAIN, CREATE, _chain("turned", "nat", -100)),
        *((_NEW_RULE, CREATE | APPEND, _rule("outgoing", rule)) for rule in outgoing),
        *((_NEW_RULE, CREATE | APPEND, _rule("turned", rule)) for rule in turned),
    ]


def _head(family: int, subsystem: int = 0) -> bytes:
    return struct.pack("!BBH", family, 0, subsystem)


def _chain(name: str, kind: str, priority: int) -> bytes:
    hook = nested(4, be32(1, _OUTPUT), be32(2, priority))
    return text(1, TABLE) + text(3, name) + hook + be32(5, 1) + text(7, kind)


def _rule(chain: str, expressions: bytes) -> bytes:
    return text(1, TABLE) + text(2, chain) + nested(4, expressions)


def _expression(name: str, *data: bytes) -> bytes:
    return nested(1, text(1, name), nested(2, *data))


def _load_meta(key: int) -> bytes:
    return _expression("meta", be32(2, key), be32(1, _REGISTER))


def _load_transport(offset: int, length: int) -> bytes:
    return _expression("payload", be32(1, _REGISTER), be32(2, _TRANSPORT), be32(3, offset), be32(4, length))


def _compare(value: bytes, operation: int = _EQUAL) -> bytes:
    return _expression("cmp", be32(1, _REGISTER), be32(2, operation), nested(3, attribute(1, value)))


def _when_loopback() -> bytes:
    return _load_meta(_OIF) + _compare(struct.pack("=I", _LOOPBACK_INDEX))


def _when_mark(mark: int) -> bytes:
    return _load_meta(_MARK) + _compare(struct.pack("=I", mark))


def _when_protocol(number: int, operation: int = _EQUAL) -> bytes:
    return _load_meta(_L4PROTO) + _compare(bytes((number,)), operation)


def _when_port(protocol: int, port: int) -> bytes:
    return _when_protocol(protocol) + _load_transport(2, 2) + _compare(port.to_bytes(2, "big"))


def _when_opening() -> bytes:
    """The first packet of a TCP connection; the rules before have left nothing but TCP."""
    mask = nested(4, attribute(1, bytes((_OPENING,))))
    masked = _expression(
        "bitwise", be32(1, _REGISTER), be32(2, _REGISTER), be32(3, 1), mask, nested(5, attribute(1, b"\0"))
    )
    return _when_protocol(_socket.IPPROTO_TCP) + _load_transport(_TCP_FLAGS_AT, 1) + masked + _compare(bytes((_SYN,)))


def _accept() -> bytes:
    return _expression("immediate", be32(1, 0), nested(2, nested(2, be32(1, 1))))


def _reject(kind: int, code: int = 0) -> bytes:
    return _expression("reject", be32(1, kind), attribute(2, bytes((code,))))


def _redirect(port: int) -> bytes:
    load = _expression("immediate", be32(1, _REGISTER), nested(2, attribute(1, port.to_bytes(2, "big"))))
    return load + _expression("redir", be32(1, _REGISTER))
