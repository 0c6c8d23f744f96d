"""The redactor: no secret gets through, however its output is cut, and nothing else is changed."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyro_mcp.engine.secrets.redact import MASK, MaskedOutput, Masks, Redactor

VALUES = st.lists(st.text("abA\n", min_size=1, max_size=6).map(str.encode), min_size=1, max_size=4)
OUTPUT = st.text("abA\nx", max_size=60).map(str.encode)


def split(masks: Masks, data: bytes, cuts: list[int]) -> bytes:
    redactor, at, out = Redactor(masks), 0, b""
    for cut in [*sorted(min(cut, len(data)) for cut in cuts), len(data)]:
        out += redactor.feed(data[at:cut])
        at = cut
    return out + redactor.finish()


@given(VALUES, OUTPUT, st.lists(st.integers(0, 60), max_size=12))
def test_no_secret_gets_through_wherever_output_is_cut(values: list[bytes], output: bytes, cuts: list[int]) -> None:
    masks = Masks(tuple(dict.fromkeys(values)))
    masked = split(masks, output, cuts)
    assert masked == masks.data(output)
    assert all(value not in part for value in values for part in masked.split(MASK))


@given(VALUES, OUTPUT, st.lists(st.integers(0, 60), max_size=12))
def test_what_is_not_secret_stays_as_it_was(values: list[bytes], output: bytes, cuts: list[int]) -> None:
    masks = Masks(tuple(dict.fromkeys(values)))
    secret = [False] * len(output)
    for value in values:
        for at in range(len(output)):
            if output.startswith(value, at):
                secret[at : at + len(value)] = [True] * len(value)
    plain = bytes(byte for byte, hidden in zip(output, secret, strict=True) if not hidden)
    assert split(masks, output, cuts).replace(MASK, b"") == plain


@given(VALUES, OUTPUT)
def test_never_more_is_kept_back_than_a_secret_may_need(values: list[bytes], output: bytes) -> None:
    redactor = Redactor(Masks(tuple(values)))
    for at in range(len(output)):
        redactor.feed(output[at : at + 1])
        assert len(redactor._kept) < max(map(len, values))


def test_ordinary_output_is_not_kept_back() -> None:
    assert Redactor(Masks.of([b"hunter2"])).feed(b"Password for jo: ") == b"Password for jo: "


def test_the_longest_secret_wins() -> None:
    masks = Masks.of([b"hunter", b"hunter2-and-more"])
    assert masks.data(b"<hunter2-and-more> <hunter>") == b"<[secret]> <[secret]>"


@pytest.mark.parametrize(
    "written",
    [
        'tok/é n"1',
        json.dumps('tok/é n"1')[1:-1],
        quote('tok/é n"1', safe=""),
        base64.b64encode('tok/é n"1'.encode()).decode(),
        'tok/é n"1'.encode().hex(),
    ],
)
def test_usual_ways_to_write_a_secret_are_known(written: str) -> None:
    assert Masks.of(['tok/é n"1\n'.encode()]).text(f"a {written} b").replace("=", "") == "a [secret] b"


def test_each_line_of_a_key_is_masked_in_a_diff() -> None:
    masks = Masks.of([b"-----BEGIN KEY-----\nMIIEvQIBADANBg\n-----END KEY-----\n"])
    assert masks.text("+-----BEGIN KEY-----\n+MIIEvQIBADANBg\n") == "+[secret]\n+[secret]\n"


def test_only_texts_of_an_answer_are_masked() -> None:
    answer = {"state": "running", "stdout": "now running", "entries": [{"path": "a/running", "status": "added"}]}
    assert Masks.of([b"running"]).answer(answer) == {
        "state": "running",
        "stdout": "now [secret]",
        "entries": [{"path": "a/[secret]", "status": "added"}],
    }


@given(VALUES, OUTPUT, st.lists(st.integers(0, 60), max_size=8), st.lists(st.booleans(), min_size=9, max_size=9))
def test_another_goes_on_where_one_was(values: list[bytes], data: bytes, cuts: list[int], lost: list[bool]) -> None:
    masks, at, out = Masks.of(values), 0, b""
    redactor = Redactor(masks)
    for again, cut in zip(lost, [*sorted(min(cut, len(data)) for cut in cuts), len(data)], strict=False):
        out += redactor.feed(data[at:cut])
        at = cut
        if again:
            at -= redactor.held
            redactor = Redactor(masks, covered=redactor.covered)
    out += redactor.feed(data[at:])
    assert out + redactor.finish() == masks.data(data)


def test_streams_are_masked_apart() -> None:
    heard: list[tuple[int, bytes]] = []
    output = MaskedOutput(Masks.of([b"hunter2"]), lambda tag, data: heard.append((tag, data)))
    for tag, piece in ((1, b"a hun"), (2, b"ter2"), (1, b"ter2 b"), (2, b" hunt")):
        output.feed(tag, piece)
    output.finish()
    assert b"".join(data for tag, data in heard if tag == 1) == b"a [secret] b"
    assert b"".join(data for tag, data in heard if tag == 2) == b"ter2 hunt"
