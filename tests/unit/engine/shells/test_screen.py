"""What a person sees of terminal output: as another emulator shows it, and bounded whatever is said."""

from __future__ import annotations

import itertools
import os
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyro_mcp.engine.shells.screen import Screen, render

COLS, ROWS = 20, 6


def seen(text: str, cols: int = 80, rows: int = 24) -> str:
    return render("", text, cols, rows)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("one\r\ntwo\r\n", "one\ntwo\n"),
        ("\x1b[1;31mred\x1b[0m plain", "red plain"),
        ("10%\r 50%\r100%\r\ndone", "100%\ndone"),
        ("long line\rshort\x1b[K", "short"),
        ("pass\b\b\b\bok  ", "ok  "),
        ("a\tb", "a       b"),
        ("日本\r\n語", "日本\n語"),
        ("日本\rab", "ab本"),
        ("日本\ra", "a 本"),
        ("e\u0301a", "e\u0301a"),
        ("x\u200by", "x\u200by"),
        ("👩🏽\r\nend", "👩🏽\nend"),
        ("\x1b]0;title\x07text\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "textlink"),
        ("\x1bPqsixel\x1b\\ok", "ok"),
        ("\x1b]0;never ended\nnext", "\nnext"),
        ("\x1b(0lqk\x1b(B q", "┌─┐ q"),
        ("top\r\nmid\x1b[1A\rTOP", "TOP\nmid"),
        ("abc\x1b[2D\x1b[P\x1b[1@X", "aXc"),
        ("ab\x1b[10G|\x1b[3C|", "ab       |   |"),
        ("shell# vim\r\n\x1b[?1049hfile text\x1b[2;1H~\x1b[?1049lshell# ", "shell# vim\nshell# "),
        ("shell# vim\r\n\x1b[?1049h\x1b[Hfile text\x1b[2;1H~", "shell# vim\n\nfile text\n~"),
        ("x\x1b[5b", "xxxxxx"),
        ("ab\x1bEc", "ab\nc"),
        ("ab\x1b7cd\x1b8X\x1b8Y", "abYd"),
        ("x" * 80 + "\x1b[K", "x" * 79),
    ],
)
def test_it_shows_what_a_person_sees(text: str, shown: str) -> None:
    assert seen(text) == shown


def test_long_lines_wrap_and_scroll_back_is_kept() -> None:
    text = "".join(f"line {number}\r\n" for number in range(1000))
    assert seen(text, 80, 5) == text.replace("\r", "")
    assert seen("x" * 25, 20, 5) == "x" * 20 + "\n" + "x" * 5
    assert seen("日" * 11, 21, 5) == "日" * 10 + "\n日"


@pytest.mark.parametrize(
    ("before", "new", "changed_text"),
    [
        ("root# ", "ls\r\nfile\r\nroot# ", "ls\nfile\nroot# "),
        ("hello", "\r\nworld", "\nworld"),
        ("hello\r\n", "world", "world"),
        ("\r 45%", "\r 50%\r 51%", " 51%"),
        ("one\r\ntwo", "\x1b[31m", ""),
        ("one\r\ntwo\r\n", "\x1b[1;1HONE", "ONE\ntwo"),
        ("a\x1b[3", "1mb", "b"),
        ("$ top\r\n\x1b[?1049h\x1b[Hold", "\x1b[Hnew", "new"),
        ("$ top\r\n\x1b[?1049h\x1b[Hold", "\x1b[?1049l$ ", "$ "),
        ("x" * 79, "yz\r\n", "y\nz\n"),
    ],
)
def test_only_what_is_new_is_told(before: str, new: str, changed_text: str) -> None:
    assert render(before, new, 80, 24) == changed_text


@given(st.lists(st.integers(0, 2000), max_size=6), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_pages_put_together_are_the_whole(cuts: list[int], seed: int) -> None:
    rng = random.Random(seed)
    words = ["make", "日本", "é", "done", "x" * 30, " "]
    text = "".join(rng.choice(words) + rng.choice(["", "", " ", "\r\n", "\x1b[1m"]) for _ in range(300))
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pages = [render(text[:a], text[a:b], COLS, ROWS) for a, b in itertools.pairwise(places)]
    assert stripped("".join(pages)) == stripped(seen(text, COLS, ROWS))


def stripped(text: str) -> list[str]:
    """Blanks at the end of a line are told while the cursor stands behind them, and not afterwards."""
    return [line.rstrip() for line in text.split("\n")]


PIECES = st.one_of(
    st.text(st.sampled_from("abc xyz"), min_size=1, max_size=30),
    st.sampled_from(["\r", "\n", "\r\n", "\b", "\t", "\x1bM", "\x1bD", "日", "本語"]),
    st.builds(lambda n, f: f"\x1b[{n}{f}", st.integers(1, 30), st.sampled_from("ABCEFGdLMae")),
    # From a known column: behind the last one pyte erases nothing, where xterm takes the last.
    st.builds(lambda x, n, f: f"\x1b[{x}G\x1b[{n}{f}", st.integers(1, 20), st.integers(1, 30), st.sampled_from("XPD")),
    st.builds(lambda x, n, f: f"\x1b[{x}G\x1b[{n}{f}", st.integers(1, 20), st.integers(0, 2), st.sampled_from("JK")),
    st.builds(lambda a, b, f: f"\x1b[{a};{b}{f}", st.integers(1, 9), st.integers(1, 30), st.sampled_from("Hf")),
)


@given(st.lists(PIECES, max_size=40))
@settings(max_examples=400, deadline=None)
def test_it_agrees_with_pyte(pieces: list[str]) -> None:
    """Where both know what to do: wide characters at the edge or cut in half are ours to get right."""
    pyte = pytest.importorskip("pyte")
    text = "".join(pieces)
    if any(char in text for char in "日本語"):
        text = text.translate(dict.fromkeys(map(ord, "日本語"), "w"))

    class Reference(pyte.Screen):  # type: ignore[misc]
        def delete_lines(self, count: int | None = None) -> None:
            """It moves up no line that was never written, and then leaves the deleted one where it is."""
            for y in range(self.lines):
                self.buffer[y]
            super().delete_lines(count)

    other = Reference(COLS, ROWS)
    pyte.Stream(other).feed(text)
    mine = Screen(COLS, ROWS)
    mine.feed(text)
    assert ["".join(row).ljust(COLS) for row in mine.lines] == list(other.display)
    assert min(mine.x, COLS - 1) == min(other.cursor.x, COLS - 1)
    assert mine.y == other.cursor.y


@given(st.text(max_size=300), st.integers(1, 10), st.integers(1, 5))
@settings(max_examples=300, deadline=None)
def test_nothing_raises(text: str, cols: int, rows: int) -> None:
    for prefix in ("", "\x1b[", "\x1b]", "日\x1b[?1049h", "\x1b[4h\x1b[?6h"):
        screen = Screen(cols, rows)
        for char in prefix + text:
            screen.feed(char)
        sound(screen)
        render(text, prefix + text, cols, rows)


ALPHABET = ["\x1b", "[", "]", "?", ";", "1", "999999999", "1049", "h", "l", "H", "J", "K", "L", "M", "P", "@", "X", "S"]
ALPHABET += [
    "T",
    "b",
    "r",
    "m",
    "日",
    "\u0301",
    "a",
    "bc",
    "\n",
    "\r",
    "\b",
    "\t",
    "\x9b",
    "\x07",
    "\x00",
    "(0",
    "8",
    "7",
]


@given(st.lists(st.sampled_from(ALPHABET), max_size=200), st.integers(1, 12), st.integers(1, 5))
@settings(max_examples=500, deadline=None)
def test_no_sequence_breaks_the_grid(pieces: list[str], cols: int, rows: int) -> None:
    screen = Screen(cols, rows)
    screen.feed("".join(pieces))
    sound(screen)
    screen.changed_text()


def sound(screen: Screen) -> None:
    assert len(screen.lines) == screen.rows
    assert all(len(row) <= screen.cols for row in screen.lines)
    assert 0 <= screen.x <= screen.cols
    assert 0 <= screen.y < screen.rows


@pytest.mark.parametrize(
    "unit",
    [
        *("\x1b[J", "\x1b[2J", "\x1b[1000L", "\x1b[999999999@", "\x1b[999S", "\x1b[999T", "\n", "a\x1b[999b", "\x1bM"),
        *(
            "\x1b]",
            "\x1bP",
            "\x1b[" + "9" * 60,
            "a\u0301\b",
            "\u0301",
            "日",
            "\x1b[?1049h\x1b[?1049l",
            "\x1b[4ha",
            "\t",
        ),
        *("\x1b[1;", "x", "\x1bc", "\x1b[?1049hx\x1b[2J\x1b[?1049lx"),
    ],
)
def test_hostile_output_costs_bounded_time(unit: str) -> None:
    text = unit * (128 * 1024 // len(unit.encode()))
    begun = time.process_time()
    changed_text = render(text[:32768], text, 1000, 1000)
    assert time.process_time() - begun < 5
    assert len(changed_text) < 200_000_000


def test_random_bytes(tmp_path: object) -> None:
    for _ in range(20):
        render("", os.urandom(20_000).decode("utf-8", "replace"), 120, 30)
