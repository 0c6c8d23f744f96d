"""What a person sees of errors and tables, on a terminal of any width and in a pipe."""

from __future__ import annotations

import dataclasses
import io
from datetime import UTC, datetime

import pytest
from rich.console import Console

from pyro_mcp.errors import InvalidArgument
from pyro_mcp.model.shell import ShellList, ShellRead
from pyro_mcp.model.workspace import Workspace, WorkspaceSeed
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


def test_of_the_file_system_only_a_new_workspace_says_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    when = datetime.fromtimestamp(0, UTC)
    made = Workspace(
        workspace_id=ID,
        name=None,
        labels={},
        allow_hosts=None,
        allow_addresses=[],
        host_ca=False,
        allow_host_compat=False,
        guest_ip=None,
        secrets=[],
        command_count=0,
        last_command=None,
        reset_count=0,
        last_reset_at=None,
        environment="debian:12",
        vcpu_count=1,
        mem_mib=512,
        ttl_seconds=60,
        created_at=when,
        last_activity_at=when,
        expires_at=when,
        state="started",
        network_policy="off",
        network_enabled=False,
        execution_mode="guest",
        isolation="tcg",
        workspace_path="/workspace",
        workspace_seed=WorkspaceSeed(mode="empty"),
        metadata={"file_system": "x" * 200},
    )
    for verb in ("status_workspace", "start_workspace", "stop_workspace"):
        render.show(verb, made, Output(as_json=False))
        assert "file system" not in capsys.readouterr().out.replace("_", " ")
    render.show("create_workspace", made, Output(as_json=False))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "overlay" in line]
    assert "metadata.file_system" in line
    assert len(line) <= 80


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("plain", [True, False])
def test_what_a_shell_shows_ends_its_line_on_a_terminal(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, terminal: bool, plain: bool
) -> None:
    monkeypatch.setattr("pyro_mcp.surfaces.cli.render.shell.is_terminal", lambda _: terminal)
    read = ShellRead(
        **{field.name: None for field in dataclasses.fields(ShellRead)}
        | {"output": "# ", "plain": plain, "state": "running", "more": False, "missed_bytes": 0}  # type: ignore[arg-type]
    )
    render.show("read_shell", read, Output(as_json=False))
    assert capfd.readouterr().out == ("# \n" if terminal and plain else "# ")
