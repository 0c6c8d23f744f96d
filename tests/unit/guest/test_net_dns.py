"""The stub's codec: right for clients, safe against anything."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyro_mcp.guest.net import dns

V4, V6 = [socket.inet_aton("198.51.100.7")], [socket.inet_pton(socket.AF_INET6, "2001:db8::7")]
OPT = b"\0" + struct.pack("!HHIH", 41, 4096, 0, 0)


def asked(
    name: bytes = b"\3web\4test\0", kind: int = dns.ADDRESS, *, space: int = 1, tail: bytes = b"", **head: int
) -> bytes:
    counts = {"qd": 1, "an": 0, "ns": 0, "ar": 1 if tail else 0, **head}
    flags = head.get("flags", 0x0100)
    header = struct.pack("!HHHHHH", 77, flags, counts["qd"], counts["an"], counts["ns"], counts["ar"])
    return header + name + struct.pack("!HH", kind, space) + tail


def test_a_blocked_name_is_none_and_says_why_to_who_can_read_it() -> None:
    plain = dns.blocked(dns.parse(asked()))
    assert (plain[3] & 15, plain[10:12], len(plain)) == (dns.NAME_ERROR, b"\0\0", len(asked()))
    extended = dns.blocked(dns.parse(asked(tail=OPT)))
    assert (extended[3] & 15, extended[10:12]) == (dns.NAME_ERROR, b"\0\1")
    # An OPT record (RFC 6891) with one option: extended error 15, Blocked (RFC 8914).
    assert extended[len(plain) :] == bytes((0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 6, 0, 15, 0, 2, 0, 15))


def test_an_address_is_answered_as_it_was_asked() -> None:
    query = dns.parse(asked(b"\3wEb\4test\0"))
    assert (query.name, query.kind, query.limit) == ("wEb.test", dns.ADDRESS, 512)
    answer = dns.reply(query, dns.NO_ERROR, V4, 30)
    assert answer[:12] == struct.pack("!HHHHHH", 77, 0x8180, 1, 1, 0, 0)
    assert answer[12:] == b"\3wEb\4test\0\0\1\0\1" + b"\xc0\x0c\0\1\0\1\0\0\0\x1e\0\4" + V4[0]


def test_the_answer_keeps_to_the_size_that_the_client_takes() -> None:
    many = V6 * 40
    plain = dns.reply(dns.parse(asked(kind=dns.ADDRESS6)), dns.NO_ERROR, many, 30)
    assert struct.unpack_from("!H", plain, 2)[0] & 0x0200
    assert len(plain) < 100
    extended = dns.reply(dns.parse(asked(kind=dns.ADDRESS6, tail=OPT)), dns.NO_ERROR, many, 30)
    assert struct.unpack_from("!HHHHH", extended, 2) == (0x8180, 1, 40, 0, 1)
    assert 512 < len(extended) <= 1232
    stream = dns.reply(dns.parse(asked(kind=dns.ADDRESS6)), dns.NO_ERROR, many, 30, limit=65535)
    assert struct.unpack_from("!H", stream, 6)[0] == 40


def test_a_long_life_is_cut_short() -> None:
    answer = dns.reply(dns.parse(asked()), dns.NO_ERROR, V4, 86400)
    assert struct.unpack_from("!I", answer, len(answer) - 10)[0] == dns.MAX_TTL


@pytest.mark.parametrize(
    "message",
    [
        asked(qd=2),
        asked(qd=0),
        asked(an=1),
        asked(b"\xc0\x0c"),
        asked(b"\x40" + b"a" * 64 + b"\0"),
        asked(b"\3a.b\4test\0"),
        asked(b"\3a\0b\4test\0"),
        asked(b"\3a\xffb\4test\0"),
        asked(b"\3a b\4test\0"),
        asked((b"\x3f" + b"a" * 63) * 4 + b"\0"),
        asked(b"\3web\4te"),
        asked()[:-1],
        asked()[:12],
    ],
)
def test_a_question_that_no_name_fits_is_a_format_error(message: bytes) -> None:
    with pytest.raises(dns.BadQuery) as caught:
        dns.parse(message)
    assert caught.value.reply == struct.pack("!HHHHHH", 77, 0x8181, 0, 0, 0, 0)


def test_what_is_no_question_gets_no_answer() -> None:
    for message in (b"", asked()[:11], asked(flags=0x8180)):
        with pytest.raises(dns.BadQuery) as caught:
            dns.parse(message)
        assert caught.value.reply == b""


def test_other_work_is_not_implemented() -> None:
    for message in (asked(flags=0x2800), asked(space=3)):
        with pytest.raises(dns.BadQuery) as caught:
            dns.parse(message)
        assert caught.value.reply[3] & 15 == dns.NOT_IMPLEMENTED


def test_the_root_and_a_name_of_full_length_are_names() -> None:
    assert dns.parse(asked(b"\0")).name == "."
    longest = b"\x3f" + b"a" * 63 + b"\x3f" + b"b" * 63 + b"\x3f" + b"c" * 63 + b"\x3d" + b"d" * 61 + b"\0"
    assert len(longest) == 255
    assert len(dns.parse(asked(longest)).name) == 253


def test_only_addresses_of_the_right_kind_are_taken_from_the_host() -> None:
    assert dns.packed(dns.ADDRESS, ["198.51.100.7", "::1", 5, None, "x", "1.2.3"]) == V4
    assert dns.packed(dns.ADDRESS6, ["2001:db8::7", "198.51.100.7"]) == V6
    for nonsense in (None, "198.51.100.7", {"a": 1}, 7):
        assert dns.packed(dns.ADDRESS, nonsense) == []
    assert len(dns.packed(dns.ADDRESS, ["198.51.100.7"] * 1000)) == dns.MAX_ANSWERS


@given(st.one_of(st.binary(max_size=600), st.binary(max_size=300).map(lambda tail: asked()[:12] + tail)))
def test_any_bytes_are_a_query_or_none(message: bytes) -> None:
    try:
        query = dns.parse(message)
    except dns.BadQuery:
        return
    assert query.name.isascii()
    assert 512 <= query.limit <= 1232
    assert len(dns.reply(query, dns.SERVER_FAILURE)) <= 512
