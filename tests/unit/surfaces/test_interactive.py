"""What reaches the terminal of an attached person: what draws, nothing that acts, all put back."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyro_mcp.errors import InvalidArgument
from pyro_mcp.surfaces.cli.interactive import InteractiveFilter
from pyro_mcp.surfaces.cli.keyboard import parse_key


def passed(text: str) -> str:
    return InteractiveFilter().feed(text.encode())


@pytest.mark.parametrize(
    "text",
    [
        "plain text\r\n\ttab\b\x07",
        "日本 é 😀",
        "\x1b[1;31mred\x1b[0m\x1b[38;2;1;2;3m\x1b[38:5:1m",
        "\x1b[H\x1b[2J\x1b[K\x1b[10;20H\x1b[3A\x1b[2L\x1b[1M\x1b[4P\x1b[5@\x1b[6X\x1b[2;10r\x1b[S\x1b[T",
        "\x1b[?1049h\x1b[?25l\x1b[?1h\x1b=\x1b[?2004h\x1b[?1006;1000h\x1b[?25h",
        "\x1b7\x1b8\x1bM\x1bD\x1b(0lqk\x1b(B\x0elqk\x0f\x1b[4h\x1b[2 q\x1b[!p",
    ],
)
def test_what_draws_passes(text: str) -> None:
    assert passed(text) == text


@pytest.mark.parametrize(
    "sequence",
    [
        *(
            "\x1b]0;title\x07",
            "\x1b]52;c;ZXZpbA==\x07",
            "\x1b]8;;http://evil\x1b\\",
            "\x1b]11;?\x1b\\",
            "\x1bktitle\x1b\\",
        ),
        *("\x1bP$qm\x1b\\", "\x1bP+q544e\x1b\\", "\x1b_app\x1b\\", "\x1b^pm\x1b\\", "\x1bXsos\x1b\\", "\x1b]0;x\x9c"),
        *(
            "\x1b[21t",
            "\x1b[8;50;200t",
            "\x1b[c",
            "\x1b[>c",
            "\x1b[=c",
            "\x1b[5n",
            "\x1b[6n",
            "\x1b[?6n",
            "\x1bZ",
            "\x05",
        ),
        *("\x1b[x", "\x1b[?2026$p", "\x1b[>q", "\x1b[?u", "\x1b[>1u", "\x1b[>4;2m", "\x1b[5i", "\x1b[?5i", "\x1b[4i"),
        *("\x1b[?3h", "\x1b[?40h", "\x1b[2h", "\x1b[3J", '\x1b[1;2"p', "\x1b[0$w", "\x1b#8", "\x1bn", "\x00"),
        *("\x9b", "\x90", "\x9d", "\x85", "\x7f"),
    ],
)
def test_what_acts_is_dropped(sequence: str) -> None:
    assert passed(f"a{sequence}b") == "ab"


def test_a_reset_and_bidirectional_text_are_tamed() -> None:
    assert passed("\x1bc") == "\x1b[!p\x1b[2J\x1b[H"
    assert passed("a\u202eb") == "a\ufffdb"


def test_modes_that_were_set_are_set_back() -> None:
    cleaner = InteractiveFilter()
    cleaner.feed(b"\x1b[?1049h\x1b[?25l\x1b[?1000h\x1b[?2004h\x1b[?2004l\x1b[31m")
    back = cleaner.finish()
    assert back.startswith("\x1b[?1049l")
    assert {"\x1b[?25h", "\x1b[?1000l"} <= set(re.findall(r"\x1b\[\?\d+[hl]", back))
    assert "2004" not in back
    assert "\x1b[0m" in back
    assert cleaner.finish() == ""
    assert InteractiveFilter().finish() == ""


HARMLESS = re.compile(
    r"(?:[^\x00-\x06\x10-\x1f\x7f-\x9f]|\x0f|\x1b\[[0-9;:]*[@ABCDEFGHIJKLMPSTXZ`abdefgmrsu]|\x1b\[\?[0-9;]+[hl]|\x1b\[4[hl]"
    r"|\x1b\[[0-9;:]* q|\x1b\[[0-9;:]*!p|\x1b[78DEHM=>]|\x1b[()*+][0AB])*"
)
PIECES = [
    "\x1b",
    "[",
    "]",
    "?",
    ">",
    ";",
    "52",
    "1049",
    "h",
    "l",
    "m",
    "n",
    "c",
    "t",
    "$",
    "q",
    "\x07",
    "\\",
    "P",
    "\n",
    "x",
]


@given(st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=4)), max_size=40), st.integers(1, 7))
@settings(max_examples=600, deadline=None)
def test_only_what_is_known_passes_in_pieces_of_any_size(pieces: list[str], size: int) -> None:
    data = "".join(pieces).encode("utf-8", "replace")
    whole = InteractiveFilter().feed(data)
    assert HARMLESS.fullmatch(whole), whole
    cleaner = InteractiveFilter()
    assert "".join(cleaner.feed(data[at : at + size]) for at in range(0, len(data), size)) == whole


@given(st.binary(max_size=400))
@settings(max_examples=300, deadline=None)
def test_any_bytes(data: bytes) -> None:
    cleaner = InteractiveFilter()
    assert HARMLESS.fullmatch(cleaner.feed(data))
    cleaner.finish()


@pytest.mark.parametrize(
    ("text", "key"),
    [("ctrl-]", b"\x1d"), ("Ctrl-a", b"\x01"), ("ctrl-\\", b"\x1c"), ("ctrl-_", b"\x1f"), ("none", None)],
)
def test_keys_have_names(text: str, key: bytes | None) -> None:
    assert parse_key(text) == key


@pytest.mark.parametrize("text", ["", "ctrl-", "x", "ctrl-1", "ctrl-ab", "alt-x", "ctrl-é"])
def test_other_keys_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="as the key to detach with"):
        parse_key(text)
