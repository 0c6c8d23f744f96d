"""A guest's output on a person's terminal: colours and text, and nothing that commands the terminal."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyro_mcp.surfaces.cli.escapes import EscapeFilter, plain

COLOUR = re.compile(r"\x1b\[[0-9;:]*m")
HOSTILE = re.compile("[\x00-\x07\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")

PIECES = st.lists(
    st.one_of(
        st.binary(max_size=24),
        st.text(max_size=12).map(lambda text: text.encode("utf-8", "surrogatepass")),
        st.sampled_from(
            [
                b"\x1b",
                b"[",
                b"]",
                b"0;x",
                b"\x07",
                b"\x1b\\",
                b"m",
                b"31",
                b"\xc2\x9b",
                b"\xc2\x9d",
                b"P",
                b"\n",
                b"52;c;",
            ]
        ),
    ),
    max_size=24,
)


def shown(*pieces: bytes) -> str:
    cleaner = EscapeFilter()
    return "".join([*map(cleaner.feed, pieces), cleaner.finish()])


@given(PIECES)
def test_nothing_but_text_and_colours_gets_through(pieces: list[bytes]) -> None:
    assert not HOSTILE.search(COLOUR.sub("", shown(*pieces)))


@given(PIECES)
def test_how_output_is_cut_into_pieces_does_not_matter(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    assert shown(*pieces) == shown(whole) == shown(*(whole[at : at + 1] for at in range(len(whole))))


@given(st.text(alphabet=st.characters(exclude_categories=["Cc", "Cf", "Cs"]), max_size=200))
def test_plain_text_is_untouched(text: str) -> None:
    assert shown(text.encode()) == text


@pytest.mark.parametrize(
    ("given_bytes", "expected"),
    [
        (b"\x1b[31mred\x1b[0m", "\x1b[31mred\x1b[0m"),
        (b"\x1b[1mbold", "\x1b[1mbold\x1b[0m"),
        (b"a\x1b]0;title\x07b", "ab"),
        (b"a\x1b]52;c;ZXZpbA==\x1b\\b", "ab"),
        (b"a\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\b", "alinkb"),
        (b"a\x1bPq#0\x1b\\b", "ab"),
        (b"a\x1b[2J\x1b[H\x1b[?1049hb", "ab"),
        (b"a\x1b[6nb\x1bcc", "abc"),
        (b"a\xc2\x9b31mb", "a\x1b[31mb\x1b[0m"),
        (b"a\xc2\x9d0;t\xc2\x9cb", "ab"),
        ("user\u202etxt.exe".encode(), "user\ufffdtxt.exe"),
        (b"50%\rdone\t.\n", "50%\rdone\t.\n"),
        (b"a\x1b]0;never ended\nb", "a\nb"),
        (b"a\x1b[999999999\nb", "a\nb"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"\x1b[>4;2mx", "x"),
    ],
)
def test_known_tricks(given_bytes: bytes, expected: str) -> None:
    assert shown(given_bytes) == expected


def test_an_endless_sequence_costs_no_memory() -> None:
    cleaner = EscapeFilter()
    cleaner.feed(b"\x1b[")
    for _ in range(100):
        cleaner.feed(b"1;" * 10_000)
    assert len(cleaner._sequence) < 1000


def test_messages_stay_on_one_line() -> None:
    assert plain("a\nb\x1b[31m\u202ec") == "a\ufffdb\ufffd[31m\ufffdc"
