"""Capture: bounded memory, exact counts, no broken characters of our own making."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pyro_mcp.engine.commands.capture import Capture
from pyro_mcp.model.count import count_of


@settings(deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=40), st.integers(min_value=2, max_value=64))
def test_every_byte_is_kept_or_counted(pieces: list[bytes], limit: int) -> None:
    capture = Capture(limit)
    for piece in pieces:
        capture.add(piece)
    got, whole = capture.finish(), b"".join(pieces)
    if len(whole) <= limit:
        assert (got.text, got.dropped_bytes) == (whole.decode("utf-8", "replace"), 0)
    else:
        assert len(whole) - limit <= got.dropped_bytes <= len(whole) - limit + 7
        assert f"[pyro: {count_of(got.dropped_bytes, 'byte')} dropped here]" in got.text


@settings(deadline=None)
@given(st.text(min_size=10, max_size=200), st.integers(min_value=8, max_value=40))
def test_a_cut_never_makes_valid_text_lossy(text: str, limit: int) -> None:
    text = text.encode("utf-8", "ignore").decode()
    capture = Capture(limit)
    capture.add(text.encode())
    assert not capture.finish().lossy


def test_bytes_that_are_not_text_are_told() -> None:
    capture = Capture()
    capture.add(b"\xff\xfe")
    assert capture.finish().lossy


def test_a_flood_in_tiny_pieces_stays_small() -> None:
    capture = Capture(1000)
    for number in range(100_000):
        capture.add(b"%d\n" % number)
    got = capture.finish()
    assert got.text.startswith("0\n1\n")
    assert got.text.endswith("99999\n")
    assert len(got.text) < 1100
    assert len(capture._tail) <= 4097
