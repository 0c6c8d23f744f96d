"""The packet filter, against what `nft` itself says that it sends for the same rules."""

from __future__ import annotations

from collections.abc import Iterator

from pyro_mcp.guest.net import netlink, rules
from pyro_mcp.guest.net.queue import ConnectionKey, parse_flow, parse_packet

# `nft --debug=netlink -c -f` of the table in the module's docstring, with nftables 1.0.6. Left out: that `nft` lets a
# reset be sent for TCP only, which the kernel sees to, and a flag of `redir` that the kernel sets by itself.
EXPECTED = """
outgoing
  [ meta load oif => reg 1 ]
  [ cmp eq reg 1 0x00000001 ]
  [ immediate reg 0 accept ]
outgoing
  [ meta load mark => reg 1 ]
  [ cmp eq reg 1 0x70790001 ]
  [ reject type 1 code 0 ]
outgoing
  [ meta load mark => reg 1 ]
  [ cmp eq reg 1 0x70790002 ]
  [ reject type 2 code 3 ]
outgoing
  [ meta load mark => reg 1 ]
  [ cmp eq reg 1 0x70790003 ]
  [ reject type 2 code 2 ]
outgoing
  [ meta load l4proto => reg 1 ]
  [ cmp eq reg 1 0x00000011 ]
  [ payload load 2b @ transport header + 2 => reg 1 ]
  [ cmp eq reg 1 0x00003500 ]
  [ immediate reg 0 accept ]
outgoing
  [ meta load l4proto => reg 1 ]
  [ cmp neq reg 1 0x00000006 ]
  [ reject type 2 code 3 ]
outgoing
  [ meta load l4proto => reg 1 ]
  [ cmp eq reg 1 0x00000006 ]
  [ payload load 2b @ transport header + 2 => reg 1 ]
  [ cmp eq reg 1 0x00003500 ]
  [ immediate reg 0 accept ]
outgoing
  [ meta load l4proto => reg 1 ]
  [ cmp eq reg 1 0x00000006 ]
  [ payload load 1b @ transport header + 13 => reg 1 ]
  [ bitwise reg 1 = ( reg 1 & 0x00000017 ) ^ 0x00000000 ]
  [ cmp eq reg 1 0x00000002 ]
  [ queue num 7079 ]
turned
  [ meta load oif => reg 1 ]
  [ cmp eq reg 1 0x00000001 ]
  [ immediate reg 0 accept ]
turned
  [ meta load l4proto => reg 1 ]
  [ cmp eq reg 1 0x00000011 ]
  [ payload load 2b @ transport header + 2 => reg 1 ]
  [ cmp eq reg 1 0x00003500 ]
  [ immediate reg 1 0x0000a00f ]
  [ redir proto_min reg 1 ]
turned
  [ meta load l4proto => reg 1 ]
  [ cmp eq reg 1 0x00000006 ]
  [ payload load 2b @ transport header + 2 => reg 1 ]
  [ cmp eq reg 1 0x00003500 ]
  [ immediate reg 1 0x0000a00f ]
  [ redir proto_min reg 1 ]
turned
  [ meta load l4proto => reg 1 ]
  [ cmp eq reg 1 0x00000006 ]
  [ immediate reg 1 0x0000a10f ]
  [ redir proto_min reg 1 ]
"""
NAMES = {3: "mark", 5: "oif", 16: "l4proto"}


def test_the_rules_are_those_that_nft_makes() -> None:
    messages = rules.ruleset(rules.AgentPorts(dns=4000, connections=4001))
    assert [kind for kind, _, _ in messages] == [0, 3, 3] + [6] * 12
    assert "\n".join(line for kind, _, body in messages if kind == 6 for line in disassemble(body)) == EXPECTED.strip()


def test_the_chains_are_those_that_nft_makes() -> None:
    chains = [
        netlink.attributes(memoryview(body)) for kind, _, body in rules.ruleset(rules.AgentPorts(1, 2)) if kind == 3
    ]
    hooks = [netlink.attributes(chain[4]) for chain in chains]
    assert [bytes(chain[1]) for chain in chains] == [b"pyro\0"] * 2
    assert [bytes(chain[7]) for chain in chains] == [b"filter\0", b"nat\0"]
    assert [int.from_bytes(hook[1], "big") for hook in hooks] == [3, 3]
    assert [int.from_bytes(hook[2], "big", signed=True) for hook in hooks] == [-150, -100]


def test_attributes_end_where_they_lie() -> None:
    good = netlink.text(1, "abc") + netlink.be32(2, 7)
    assert {kind: bytes(value) for kind, value in netlink.attributes(memoryview(good)).items()} == {
        1: b"abc\0",
        2: b"\0\0\0\7",
    }
    for bad in (b"\0", b"\0\0\1\0", b"\xff\xff\1\0ab", b"\3\0\1\0"):
        found = netlink.attributes(memoryview(good + bad))
        assert sorted(found) == [1, 2], bad


def test_a_packet_says_where_it_goes() -> None:
    tcp = (40000).to_bytes(2, "big") + (443).to_bytes(2, "big") + bytes(16)
    four = bytes([0x45]) + bytes(8) + bytes([6]) + bytes(2) + bytes([192, 0, 0, 2, 198, 51, 100, 7])
    options = bytes([0x46]) + four[1:] + bytes(4)
    six = bytes([0x60]) + bytes(5) + bytes([6, 64]) + bytes(15) + b"\1" + b"\x20\1\r\xb8" + bytes(11) + b"\7"
    assert parse_flow(four + tcp) == ConnectionKey("192.0.0.2", 40000, "198.51.100.7", 443)
    assert parse_flow(options + tcp) == ConnectionKey("192.0.0.2", 40000, "198.51.100.7", 443)
    assert parse_flow(six + tcp) == ConnectionKey("::1", 40000, "2001:db8::7", 443)
    for bad in (b"", four, four + tcp[:3], bytes([0x41]) + four[1:] + tcp, six, b"\x75" + four[1:] + tcp):
        assert parse_flow(bad) is None
    udp = four[:9] + bytes([17]) + four[10:] + tcp
    assert parse_flow(udp) is None


def test_a_packet_without_a_number_is_no_packet() -> None:
    assert parse_packet(memoryview(netlink.attribute(10, b"\x45"))) is None
    packet = parse_packet(memoryview(netlink.attribute(1, b"\0\0\0\x09\x08\0\3")))
    assert packet is not None
    assert (packet.number, packet.flow) == (9, None)


def disassemble(body: bytes) -> Iterator[str]:
    """A rule in the words of `nft --debug=netlink`."""
    rule = netlink.attributes(memoryview(body))
    yield bytes(rule[2]).rstrip(b"\0").decode()
    at, expressions = 0, rule[4]
    while at < len(expressions):
        length = int.from_bytes(expressions[at : at + 2], "little")
        element = netlink.attributes(expressions[at + 4 : at + length])
        yield f"  [ {expression(bytes(element[1]).rstrip(bytes(1)).decode(), netlink.attributes(element[2]))} ]"
        at += length + -length % 4


def expression(name: str, data: dict[int, memoryview]) -> str:
    number = {kind: int.from_bytes(value, "big") for kind, value in data.items()}
    match name:
        case "meta":
            return f"meta load {NAMES[number[2]]} => reg {number[1]}"
        case "cmp":
            return f"cmp {['eq', 'neq'][number[2]]} reg {number[1]} {value_of(data[3])}"
        case "payload":
            assert number[2] == 2
            return f"payload load {number[4]}b @ transport header + {number[3]} => reg {number[1]}"
        case "bitwise":
            assert number[3] == 1
            return f"bitwise reg {number[2]} = ( reg {number[1]} & {value_of(data[4])} ) ^ {value_of(data[5])}"
        case "immediate" if number[1] == 0:
            verdict = netlink.attributes(netlink.attributes(data[2])[2])
            return f"immediate reg 0 {['drop', 'accept'][int.from_bytes(verdict[1], 'big')]}"
        case "immediate":
            return f"immediate reg {number[1]} {value_of(data[2])}"
        case "reject":
            return f"reject type {number[1]} code {number[2]}"
        case "queue":
            assert number[2] == 1
            return f"queue num {number[1]}"
        case "redir":
            return f"redir proto_min reg {number[1]}"
    raise AssertionError(name)


def value_of(data: memoryview) -> str:
    return f"0x{int.from_bytes(netlink.attributes(data)[1], 'little'):08x}"
