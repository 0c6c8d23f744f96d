"""Pages of a terminal's bytes: every one masked, no character cut, nothing lost between them, however they are cut."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pyro_mcp.engine.secrets.redact import MASK, Masks
from pyro_mcp.engine.shells.output import LiveMask, page, reach

NEEDLES = (b"hunter2-secret", b"secret-key", b"abcabcabd")


def pages(data: bytes, needles: tuple[bytes, ...], most: int, *, keep: int = 10**9) -> bytes:
    """All of `data`, read page by page as a client does that is told only the last `keep` bytes."""
    out, cursor = b"", 0
    back = ahead = reach(needles)
    while True:
        oldest = max(0, len(data) - keep)
        at = max(cursor, oldest)
        start = max(oldest, at - back)
        window = data[start : at + most + ahead]
        over = start + len(window) == len(data)
        found = page(needles, window, start, at, most, done=over, lost=start == oldest > 0, context=0)
        out += found.new
        if found.end == len(data):
            return out
        assert found.end > cursor, "every page gets further"
        cursor = found.end


TEXT = st.lists(
    st.sampled_from([*NEEDLES, b"hunter2", b"-secret", b"abcabc", b"abd", b"x", b" ", "é€😀".encode(), b"\r\n", b"h"]),
    max_size=30,
).map(b"".join)


@given(TEXT, st.integers(4, 40))
@settings(max_examples=500, deadline=None)
def test_pages_of_any_size_say_the_same_and_no_secret(data: bytes, most: int) -> None:
    whole = pages(data, NEEDLES, 10**6)
    assert pages(data, NEEDLES, most) == whole
    assert not any(needle in whole for needle in NEEDLES)
    if MASK not in whole:
        assert whole == data


@given(st.text(max_size=60), st.integers(4, 9))
@settings(max_examples=300, deadline=None)
def test_no_character_is_cut(text: str, most: int) -> None:
    data, cursor = text.encode("utf-8", "replace"), 0
    while cursor < len(data):
        window = data[cursor : cursor + most]
        over = cursor + len(window) == len(data)
        found = page((), window, cursor, cursor, most, done=over, lost=False, context=0)
        found.new.decode("utf-8")
        assert found.end > cursor
        cursor = found.end


@given(TEXT, st.integers(0, 30))
@settings(max_examples=300, deadline=None)
def test_what_was_lost_leaves_no_end_of_a_secret(data: bytes, keep: int) -> None:
    needle = NEEDLES[0]
    whole = needle + data
    shown = pages(whole, NEEDLES, 10**6, keep=len(data) + keep % len(needle))
    if keep % len(needle):
        assert shown.startswith(MASK)


def test_a_running_shell_keeps_back_what_may_become_a_secret() -> None:
    found = page(NEEDLES, b"say hunter2-", 0, 0, 100, done=False, lost=False, context=0)
    assert (found.new, found.end) == (b"say ", 4)
    found = page(NEEDLES, b"say hunter2-secret.", 0, 4, 100, done=False, lost=False, context=100)
    assert (found.before, found.new, found.end) == (b"say ", MASK + b".", 19)
    found = page(NEEDLES, b"say hunter2-secret.", 0, 10, 100, done=False, lost=False, context=100)
    assert found.new == MASK + b".", "a cursor in the middle of one"
    found = page(NEEDLES, b"say hunter2-", 0, 0, 100, done=True, lost=False, context=0)
    assert found.new == b"say hunter2-"


def live(pieces: list[bytes], *, quiet: bool) -> bytes:
    mask, out = LiveMask(NEEDLES), b""
    for piece in pieces:
        out += mask.feed(piece)
        if quiet:
            out += mask.quiet()
            assert not mask.holds
    return out + mask.finish()


@given(st.lists(TEXT, max_size=8))
@settings(max_examples=500, deadline=None)
def test_live_output_is_masked_like_pages(pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    assert live(pieces, quiet=False) == pages(data, NEEDLES, 10**6)


@given(TEXT)
@settings(max_examples=500, deadline=None)
def test_typing_shows_at_once_and_tells_three_bytes_of_a_secret_at_most(data: bytes) -> None:
    shown = live([bytes((byte,)) for byte in data], quiet=True)
    assert not any(needle in shown for needle in NEEDLES)
    if pages(data, NEEDLES, 10**6) == data:
        assert shown == data


def test_what_is_typed_is_seen() -> None:
    mask = LiveMask(NEEDLES)
    assert mask.feed(b"h") == b""
    assert mask.holds
    assert (mask.quiet(), mask.holds) == (b"h", False)
    assert mask.feed(b"i") == b"i"
    assert mask.feed(b"hunter2-secre") == b""
    assert mask.quiet() == b"hun"
    assert mask.quiet() == b""
    assert mask.feed(b"t!") == MASK + b"!"
    assert live([bytes((byte,)) for byte in NEEDLES[0]], quiet=True) == b"hun" + MASK


def test_long_secrets_in_every_form_are_found_quickly() -> None:
    needles = Masks.of([bytes(range(33, 127)) * 300]).needles
    data = (bytes(range(33, 127)) * 299 + b"x") * 30
    page(needles, data, 0, 0, len(data), done=False, lost=True, context=0)
