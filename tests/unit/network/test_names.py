"""Names: one form each, or none; what is matched is what is resolved."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyro_mcp.network.names import host_name, matches, pattern


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Example.COM", "example.com"),
        ("example.com.", "example.com"),
        ("_dmarc.example.com", "_dmarc.example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("b\u0075\u0308cher.example", "xn--bcher-kva.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("日本.jp", "xn--wgv71a.jp"),
        ("a.1b", "a.1b"),
        ("registry", "registry"),
    ],
)
def test_the_one_form(text: str, name: str) -> None:
    assert host_name(text) == name


@pytest.mark.parametrize(
    "text",
    [
        *("", ".", "..", "a..b", "example.com..", ".example.com", "example.com\0", "example.com\0.evil.test", "a%00b"),
        *("a%2eb", "user@example.com", "a b", "a\tb", "a\nb", "a/b", "a\\b", "a:80", "[::1]", "::1", "*", "*.a.com"),
        *("127.0.0.1", "127.1", "0x7f.1", "0177.0.0.1", "2130706433", "0x7f000001", "1.2.3.4.", "a.0x", "example.1"),
        *("-a.com", "a-.com", "x" * 64 + ".com", ".".join(["x" * 60] * 5), "a" * 2000, "http://a.com", "a,b", "a;b"),
        *("straße.de", "fa\u200dke.com", "ｅxample.com", "a。b", "a．b", "ﬁ.com", "Ⅷ.com", "İ.com", "a\u00adb.com"),
        *("☃.net", "\ud800.com", "\u202ea.com", "ü" * 60 + ".com"),
    ],
)
def test_no_form(text: str) -> None:
    with pytest.raises(ValueError):
        host_name(text)


@given(st.text(max_size=40) | st.text("aA1.-_xn0ü\0%@", max_size=20))
@settings(max_examples=1500)
def test_a_form_is_a_fixed_point_and_plain(text: str) -> None:
    try:
        name = host_name(text)
    except ValueError:
        return
    assert host_name(name) == name == host_name(name.upper()) == host_name(name + ".")
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_.")
    assert name.encode("idna").decode() == name


@given(
    st.from_regex(r"(0x[0-9a-f]{0,9}|0[0-7]{0,11}|[0-9]{1,10})(\.(0x[0-9a-f]{0,3}|[0-9]{1,4})){0,3}", fullmatch=True)
)
@settings(max_examples=500)
def test_nothing_that_the_c_library_reads_as_an_address_is_a_name(text: str) -> None:
    try:
        socket.inet_aton(text)
    except OSError:
        return
    with pytest.raises(ValueError):
        host_name(text)


@pytest.mark.parametrize(
    ("name", "entry", "expected"),
    [
        ("example.com", "example.com", True),
        ("example.com", "EXAMPLE.com.", True),
        ("a.example.com", "*.example.com", True),
        ("a.b.example.com", "*.example.com", True),
        ("example.com", "*.example.com", False),
        ("badexample.com", "*.example.com", False),
        ("example.com.evil.test", "example.com", False),
        ("a.example.com", "example.com", False),
        ("aexample.com", "example.com", False),
        ("xn--bcher-kva.example", "*.example", True),
        ("xn--bcher-kva.example", "bücher.example", True),
    ],
)
def test_matching(name: str, entry: str, expected: bool) -> None:
    assert matches(host_name(name), [pattern(entry)]) is expected


@pytest.mark.parametrize(
    "entry", ["*", "", "*.", "**.a.com", "a.*.com", "*a.com", "10.0.0.1", "*.1.2", "a b", "http://x.y"]
)
def test_unusable_patterns(entry: str) -> None:
    with pytest.raises(ValueError):
        pattern(entry)
