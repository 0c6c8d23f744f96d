"""Edits of one text: what is replaced, what is kept, and what a refusal says to do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyro_mcp.errors import InvalidArgument
from pyro_mcp.trees import edit as editing
from pyro_mcp.trees.edit import Edit, edit

TEXT = b"def one():\n    return 1\n\n\ndef two():\n    return 2\n"


def refusal(content: bytes | None, *edits: Edit) -> str:
    with pytest.raises(InvalidArgument) as caught:
        edit("f", content, edits)
    return str(caught.value)


def test_the_one_place_is_replaced_and_nothing_else() -> None:
    done = edit("f", TEXT, [Edit("return 2", "return 3")])
    assert done.content == TEXT.replace(b"return 2", b"return 3")
    assert (done.replacements, done.first_line, done.line_ends) == (1, 6, None)


def test_several_are_made_each_on_the_result_of_the_one_before() -> None:
    done = edit("f", b"a b\nc\n", [Edit("c", "b"), Edit("a b", "x"), Edit("b", "z")])
    assert (done.content, done.replacements, done.first_line) == (b"x\nz\n", 3, 1)


def test_one_that_does_not_fit_is_named_and_stops_all() -> None:
    assert refusal(TEXT, Edit("one", "uno"), Edit("three", "tres")).startswith("cannot edit f: edit 2 of 2: the text")


def test_a_text_that_stands_there_often_is_located() -> None:
    told = refusal(TEXT, Edit("return", "yield"))
    assert "stands in it 2 times, in lines 2, 6" in told
    assert "<<edit_workspace_file.replace_all>>" in told
    assert "3 times, in line 1" in refusal(b"x x x", Edit("x", "y"))
    assert "and more" in refusal(b"x\n" * 100, Edit("x", "y"))
    assert "at least 1000 times" in refusal(b"x" * 5000, Edit("x", "y"))


def test_places_that_overlap_are_two() -> None:
    assert "2 times" in refusal(b"aaa", Edit("aa", "b"))
    assert edit("f", b"aaa", [Edit("aa", "b", True)]).content == b"ba"


def test_all_are_replaced_when_asked() -> None:
    done = edit("f", TEXT, [Edit("return", "yield", True)])
    assert (done.content, done.replacements, done.first_line) == (TEXT.replace(b"return", b"yield"), 2, 2)


@pytest.mark.parametrize("content", [None, b""])
def test_an_empty_text_fills_a_file_that_is_not_there_or_empty(content: bytes | None) -> None:
    assert edit("f", content, [Edit("", "x\n"), Edit("x", "y")]).content == b"y\n"


def test_an_empty_text_is_refused_elsewhere() -> None:
    assert "<<write_workspace_file>>" in refusal(TEXT, Edit("", "x"))
    assert "the same" in refusal(TEXT, Edit("one", "one"))


@pytest.mark.parametrize(
    ("content", "old", "new", "expected", "line_ends"),
    [
        # What an edit does not name is kept, and line ends that were meant are the file's.
        (b"a\r\nb\r\nc", "a\nb", "x\ny", b"x\r\ny\r\nc", "crlf"),
        (b"a\r\nb\r\n", "b", "b\nc", b"a\r\nb\r\nc\r\n", "crlf"),
        (b"a\r\nb\r\n", "a\r\nb", "a\nb", b"a\nb\r\n", None),
        (b"a\nb\n", "a\r\nb", "x\r\ny", b"x\ny\n", "lf"),
        (b"a\nb\n", "a", "x\r\ny", b"x\r\ny\nb\n", None),
        (b"a\r\nb\nc\n", "b\nc", "b\n", b"a\r\nb\n\n", None),
        (b"a\r\nb\nc\n", "a\nb", "a\nx", b"a\r\nx\nc\n", "crlf"),
        (b"\xef\xbb\xbfa\n", "a\n", "b", b"\xef\xbb\xbfb", None),
        (b"gr\xfc\xdfe\nx", "x", "y", b"gr\xfc\xdfe\ny", None),
        ("a\u2028b".encode(), "b", "ü", "a\u2028ü".encode(), None),
        (b"a\rb\r", "b", "c\nd", b"a\rc\nd\r", None),
    ],
)
def test_line_ends_and_encoding_stay(
    content: bytes, old: str, new: str, expected: bytes, line_ends: str | None
) -> None:
    done = edit("f", content, [Edit(old, new)])
    assert (done.content, done.line_ends) == (expected, line_ends)


@pytest.mark.parametrize(
    ("content", "old", "words"),
    [
        ("if x:\n\treturn 1\n", "    return 1", ["line 2", "white space", r'has "\treturn 1"']),
        ("if x:\r\n\treturn 1\r\n", "    return 1", ["line 2", "white space", r'has "\treturn 1", the text']),
        ("a = 1\n\n  b = 2\n", "a = 1\n\nb = 2", ["line 1", "white space"]),
        ("print(“hi”)\n", 'print("hi")', ["line 1", "look alike", "U+201C", "U+0022"]),
        ("x\nсору = 1\n", "copy = 1", ["line 2", "look alike", "U+0441"]),
        ("a\u00a0b\n", "a b", ["white space", r"a\xa0b"]),
        ("a\u200bb\n", "ab", ["look alike", r"a\u200bb"]),
        ("x\nReturn Value\n", "return value", ["line 2", "upper and lower case"]),
        ("a\nb\r\nc\n", "a\nb\nc", ["line 1", "line ends"]),
        ("x = 1\ny = 2\n", "     1→x = 1\n     2→y = 2", ["line numbers", "Leave out"]),
        ("import os\n\nvalue = compute(alpha, beta)\n", "value = compute(alpha, gamma)", ["line 3 comes nearest"]),
        ("nothing\n", "something quite else entirely", ["nothing in it is like that"]),
        ("", "x", ["nothing in it"]),
    ],
)
def test_a_text_that_is_not_there_is_told_apart_from_what_is(content: str, old: str, words: list[str]) -> None:
    told = refusal(content.encode(), Edit(old, "new"))
    for word in words:
        assert word in told


def test_what_cannot_be_edited_as_text_is_refused() -> None:
    assert "binary" in refusal("wide".encode("utf-16"), Edit("w", "x"))
    assert "not UTF-8" in refusal(b"gr\xfc\xdfe", Edit("gr", "ö"))
    assert "not valid Unicode" in refusal(TEXT, Edit("one", "\ud800"))


def test_a_result_that_explodes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(editing, "MAX_SIZE", 1000)
    assert "at most 1000" in refusal(b"x" * 100, Edit("x", "y" * 11, True))
    assert len(edit("f", b"x" * 100, [Edit("x", "y" * 10, True)]).content) == 1000


def test_a_hopeless_search_is_bounded() -> None:
    content = (b"some words in a line that is like many others\n" * 200_000) + b"x" * 1_000_000
    assert "comes nearest" in refusal(content, Edit("some words in a line\n" * 5000, "x"))


PIECES = st.lists(st.sampled_from(["a", "b", "\n", "\r\n", "é", "\ufeff"]), max_size=8).map("".join)


@given(PIECES, PIECES, PIECES, PIECES)
def test_any_edit_is_made_exactly_or_refused(before: str, old: str, after: str, new: str) -> None:
    content = (before + old + after).encode()
    try:
        done = edit("f", content, [Edit(old, new)])
    except InvalidArgument:
        return
    start, end = before.encode(), after.encode()
    assert done.content.startswith(start)
    assert done.content.endswith(end)
    middle = done.content[len(start) : len(done.content) - len(end)]
    assert middle.replace(b"\r\n", b"\n") == new.encode().replace(b"\r\n", b"\n")
    same = 0
    for mine, theirs in zip(content.split(b"\n"), done.content.split(b"\n"), strict=False):
        if mine != theirs:
            break
        same += 1
    assert done.first_line <= same + 1
