"""Counts are said in words that fit one as well as many, and in one place."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyro_mcp
from pyro_mcp.model.count import count_of

SOURCE = Path(pyro_mcp.__file__).parent
MODULES = [path for path in SOURCE.rglob("*.py") if not {"guest", "protocol"} & set(path.parts)]
"""The agent and the wire import nothing of the rest, and count nothing that may be one."""
NOUNS = {"characters", "connections", "items", "machines", "names", "requests", "services", "shells", "workspaces"}
LIMIT = re.compile(
    r"[A-Z_]+|self\._limits\.\w+|self\._ratio|ext4\.[A-Z_]+|self\._device_bytes|device_bytes|header\.size"
)
"""A limit, or what has passed one: it is never one."""


@pytest.mark.parametrize(
    ("count", "words", "said"),
    [
        (0, ("entry", "entries"), "0 entries"),
        (1, ("entry", "entries"), "1 entry"),
        (2, ("entry", "entries"), "2 entries"),
        (1, ("byte",), "1 byte"),
        (1_234_567, ("byte",), "1234567 bytes"),
    ],
)
def test_one_is_not_many(count: int, words: tuple[str, ...], said: str) -> None:
    assert count_of(count, *words) == said
    assert count_of(count, *words, grouped=True).replace(",", "") == said


def counted(path: Path) -> Iterator[str]:
    """The plurals that are given to `count_of`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "count_of":
            words = [word.value for word in node.args[1:] if isinstance(word, ast.Constant)]
            yield from [f"{words[0]}s"] if len(words) == 1 else words[1:]


def counted_by_hand(path: Path, plurals: set[str]) -> Iterator[str]:
    """The f-strings in which a value is followed by a plural."""
    for node in ast.walk(ast.parse(path.read_text())):
        parts = node.values if isinstance(node, ast.JoinedStr) else []
        for value, after in itertools.pairwise(parts):
            if isinstance(value, ast.FormattedValue) and isinstance(after, ast.Constant):
                word = re.match(r" (\w+)", str(after.value))
                if word and word[1] in plurals and not LIMIT.fullmatch(ast.unparse(value.value)):
                    yield f"{path.relative_to(SOURCE)}:{node.lineno}: {{{ast.unparse(value.value)}}}{word[0]}"


def test_nothing_is_counted_by_hand() -> None:
    plurals = {word for path in MODULES for word in counted(path)}
    assert {"entries", "bytes", "files", "times"} <= plurals
    assert [found for path in MODULES for found in counted_by_hand(path, plurals | NOUNS)] == []


def test_counting_by_hand_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "SOURCE", tmp_path)
    (tmp_path / "one.py").write_text("f'{n} entries', f'{n:,} entries of {MOST} bytes', f'{n} ends', f'{n} entry'")
    found = list(counted_by_hand(tmp_path / "one.py", {"entries", "bytes"}))
    assert found == ["one.py:1: {n} entries"] * 2
