"""What a person sees of errors and tables, on a terminal of any width and in a pipe."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from pyro_mcp.errors import InvalidArgument
from pyro_mcp.model.shell import ShellList
from pyro_mcp.surfaces.cli import render
from pyro_mcp.surfaces.cli.output import Output
from pyro_mcp.surfaces.cli.render.common import put, table

ID = "ws-0123456789ab"
WHEN = "2026-11-21 15:25:13 UTC"


def drawn(console: Console) -> None:
    rows = table("ID", "ENVIRONMENT", "EXPIRES", folds=("EXPIRES",))
    rows.add_row(ID, "debian:12-build", WHEN)
    put(console, rows)


@pytest.mark.parametrize("width", [20, 45, 60, 80])
def test_a_terminal_folds_no_word_that_may_be_copied(width: int) -> None:
    shown = io.StringIO()
    drawn(Console(file=shown, width=width, force_terminal=True))
    lines = shown.getvalue().splitlines()
    assert any(line.startswith(ID) and "debian:12-build" in line for line in lines)
    assert all(part in shown.getvalue() for part in WHEN.split())
    assert any(WHEN in line for line in lines) == (width >= 60)


def test_a_pipe_gets_one_line_for_each_row(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    Output(as_json=False).text(drawn)
    assert [line.split() for line in capsys.readouterr().out.splitlines() if ID in line] == [
        [ID, "debian:12-build", *WHEN.split()]
    ]


def test_a_hint_keeps_its_lines_and_no_other_control(capsys: pytest.CaptureFixture[str]) -> None:
    Output(as_json=False).error(InvalidArgument("cannot apply it:\n no", hint="there it says\n1: a\x1b[2J\n2: b"))
    assert capsys.readouterr().err.splitlines() == [
        "pyro: cannot apply it:\ufffd no",
        "  hint: there it says",
        "        1: a\ufffd[2J",
        "        2: b",
    ]


def test_a_list_of_no_shells_says_that_there_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    render.show("list_shells", ShellList(workspace_id=ID, count=0, shells=[]), Output(as_json=False))
    assert capsys.readouterr().out == "no shells since its machine has started\n"
