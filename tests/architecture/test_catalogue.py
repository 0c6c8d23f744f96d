"""The table in tests/README.md: each check of the catalogue has a row, and every test that a row names is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
ROWS = [line for line in (TESTS / "README.md").read_text().splitlines() if re.match(r"\| \d+ ", line)]
NOT_SERVED = 37
Function = ast.FunctionDef | ast.AsyncFunctionDef


def test_every_check_has_one_row_in_order() -> None:
    assert [int(row.split()[1]) for row in ROWS] == list(range(1, 39))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split()[1])
def test_what_a_row_names_is_there(row: str) -> None:
    _, number, tests, _left, _ = row.split("|")
    spans = re.findall(r"`([^`]+)`", tests)
    files = [TESTS / span for span in spans if span.endswith(".py")]
    names = {span for span in spans if not span.endswith(".py")}
    assert files or int(number.split()[0]) == NOT_SERVED
    found = {
        node.name for file in files for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, Function)
    }
    assert names <= found, names - found
