"""Addresses: differential against `ipaddress`, and every disguise of an address that must stay out of reach."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyro_mcp.network.addresses import embedded, opened, parse, parse_network, special

V4 = st.integers(0, 2**32 - 1).map(ipaddress.IPv4Address)
V6 = st.integers(0, 2**128 - 1).map(ipaddress.IPv6Address)
EDGES = [
    "0.0.0.0 0.255.255.255 9.255.255.255 10.0.0.0 10.255.255.255 11.0.0.0 100.63.255.255 100.64.0.0 100.127.255.255",
    "100.128.0.0 126.255.255.255 127.0.0.0 127.255.255.255 128.0.0.0 169.253.255.255 169.254.0.0 169.255.0.0",
    "172.15.255.255 172.16.0.0 172.31.255.255 172.32.0.0 192.167.255.255 192.168.0.0 192.169.0.0 198.17.255.255",
    "198.18.0.0 198.19.255.255 198.20.0.0 203.0.112.255 203.0.113.0 203.0.114.0 223.255.255.255 224.0.0.0",
    "239.255.255.255 240.0.0.0 255.255.255.254 255.255.255.255",
]
SECRET = [
    *("127.0.0.1", "127.1.2.3", "0.0.0.0", "0.0.0.1", "169.254.169.254", "169.254.0.1", "10.0.0.1", "172.16.0.1"),
    *("192.168.1.1", "100.64.0.1", "100.100.100.200", "192.0.0.192", "168.63.129.16", "224.0.0.1", "255.255.255.255"),
    *("198.18.0.1", "192.0.2.1", "198.51.100.1", "203.0.113.1", "240.0.0.1"),
]


def disguises(text: str) -> list[ipaddress.IPv6Address]:
    """Every IPv6 address that leads to the IPv4 address `text`."""
    number = int(ipaddress.IPv4Address(text))
    return [
        ipaddress.IPv6Address(0xFFFF << 32 | number),
        ipaddress.IPv6Address(0xFFFF << 48 | number),
        ipaddress.IPv6Address(0x64FF9B << 96 | number),
        ipaddress.IPv6Address(0x2002 << 112 | number << 80 | 1),
        ipaddress.IPv6Address(0x20010000 << 96 | number << 64 | (~int(ipaddress.IPv4Address("8.8.8.8")) & 0xFFFFFFFF)),
        ipaddress.IPv6Address(0x20010000 << 96 | 0x08080808 << 64 | (~number & 0xFFFFFFFF)),
        ipaddress.IPv6Address(number if number > 1 else number | 2),
    ]


@pytest.mark.parametrize("text", SECRET)
def test_no_disguise_makes_an_address_public(text: str) -> None:
    assert special(parse(text)) is not None
    for disguise in disguises(text):
        assert special(parse(str(disguise))) is not None, str(disguise)


@pytest.mark.parametrize("text", ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "1.1.1.1"])
def test_public_addresses_are_open(text: str) -> None:
    assert special(parse(text)) is None


@given(V4 | st.sampled_from(" ".join(EDGES).split()).map(ipaddress.IPv4Address))
@settings(max_examples=2000)
def test_what_is_open_is_global_for_python_too(address: ipaddress.IPv4Address) -> None:
    if special(address) is None:
        assert address.is_global
        assert not address.is_multicast
    else:
        # The ones that Python calls global and this refuses: a relay, a metadata service, and two for everybody.
        known = ("192.88.99.0/24", "168.63.129.16/32", "192.0.0.9/32", "192.0.0.10/32", "224.0.0.0/4")
        assert not address.is_global or any(address in ipaddress.ip_network(one) for one in known)


@given(V6 | st.integers(0, 2**125 - 1).map(lambda low: ipaddress.IPv6Address(1 << 125 | low)))
@settings(max_examples=2000)
def test_what_is_open_of_ipv6_is_global_unicast(address: ipaddress.IPv6Address) -> None:
    if special(parse(str(address))) is None and address.ipv4_mapped is None:
        assert not address.is_multicast
        assert not address.is_private or embedded(address)
        assert address in ipaddress.ip_network("2000::/3") or embedded(address)


@given(V4)
def test_a_disguise_is_judged_as_what_it_leads_to(address: ipaddress.IPv4Address) -> None:
    for disguise in disguises(str(address)):
        seen, bare = special(parse(str(disguise))), special(address)
        # A Teredo address has a second one in it, which is public here.
        assert (seen is None) == (bare is None)
        assert seen is None or bare is None or seen.openness == bare.openness


@pytest.mark.parametrize(
    "text",
    [
        *("0177.0.0.1", "0x7f.0.0.1", "127.1", "2130706433", "127.0.0.1.", "127.0.0.01", " 127.0.0.1", "127.0.0.1\n"),
        *("fe80::1%eth0", "fe80::1%1", "::ffff:127.1", "[::1]", "1.2.3.4/32", "", "localhost", "１.2.3.4", "1.2.3.4\0"),
    ],
)
def test_one_form_only(text: str) -> None:
    with pytest.raises(ValueError):
        parse(text)


def test_a_mapped_address_is_the_ipv4_one() -> None:
    assert parse("::ffff:10.0.0.1") == ipaddress.IPv4Address("10.0.0.1")
    assert parse("::ffff:a00:1") == ipaddress.IPv4Address("10.0.0.1")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("10.0.0.5/8", "write 10.0.0.0/8, or 10.0.0.5 alone"),
        ("10.0.0.0/33", "neither an address nor"),
        ("10.0.0.0/255.0.0.0", "prefix length"),
        ("example.com", "neither an address nor"),
        ("", "neither an address nor"),
        ("10.0.0.0/-1", "prefix length"),
        ("fe80::1%eth0", "neither an address nor"),
    ],
)
def test_unusable_networks(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_network(text)


def test_a_mapped_network_is_the_ipv4_one() -> None:
    assert parse_network("::ffff:10.0.0.0/104") == ipaddress.ip_network("10.0.0.0/8")
    assert parse_network("203.0.113.7") == ipaddress.ip_network("203.0.113.7/32")


@pytest.mark.parametrize(
    ("address", "allowed", "expected"),
    [
        ("10.1.2.3", "10.0.0.0/8", True),
        ("10.1.2.3", "0.0.0.0/0", True),
        ("10.1.2.3", "10.1.2.4", False),
        ("127.0.0.1", "0.0.0.0/0", False),
        ("127.0.0.1", "127.0.0.0/31", False),
        ("127.0.0.1", "127.0.0.1", True),
        ("169.254.169.254", "169.254.0.0/16", False),
        ("169.254.169.254", "169.254.169.254/32", True),
        ("fd00:ec2::254", "fd00::/8", False),
        ("fd00:ec2::253", "fd00::/8", True),
        *(
            (one, "fc00::/7", False)
            for one in ("fd00:ec2::23", "fd20:ce::254", "fd00:c1::a9fe:a9fe", "fd00:100::100:200", "fd00:42::42")
        ),
        ("fd00:a9fe:a9fe::1", "fd00:a9fe::/32", False),
        ("fd00:a9fe:a9fe::1", "fd00:a9fe:a9fe::1", True),
        ("100.100.100.200", "100.64.0.0/10", False),
        ("::1", "::/0", False),
        ("224.0.0.1", "224.0.0.1", False),
        ("255.255.255.255", "255.255.255.255", False),
        ("240.1.2.3", "0.0.0.0/0", False),
        ("64:ff9b::a00:1", "10.0.0.0/8", False),
    ],
)
def test_what_opens_what(address: str, allowed: str, expected: bool) -> None:
    found = special(parse(address))
    assert found is not None
    assert opened(parse(address), found.openness, [parse_network(allowed)]) is expected
