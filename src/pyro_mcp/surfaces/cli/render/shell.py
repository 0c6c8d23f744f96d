"""Shells, for a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyro_mcp.model.count import count_of
from pyro_mcp.model.shell import Shell, ShellClosed, ShellList, ShellRead, ShellSignalled, ShellWritten
from pyro_mcp.surfaces.cli.escapes import plain
from pyro_mcp.surfaces.cli.output import STDOUT, Output, is_terminal
from pyro_mcp.surfaces.cli.render.common import put, table
from pyro_mcp.surfaces.cli.render.workspace import when

if TYPE_CHECKING:
    from rich.console import Console


def draw_opened(console: Console, result: Shell) -> None:
    """Its id, and how to get into it."""
    console.print(f"shell {result.shell_id} is open: {result.cols} x {result.rows}, in {plain(result.cwd)}")
    console.print(f"enter it with: pyro workspace shell attach {result.workspace_id} {result.shell_id}", soft_wrap=True)


def draw_list(console: Console, result: ShellList) -> None:
    """One line per shell, the oldest first."""
    if not result.count:
        console.print("no shells since its machine has started")
        return
    rows = table("SHELL", "STATE", "SIZE", "STARTED", "DIRECTORY", folds=("STARTED", "DIRECTORY"))
    for one in result:
        rows.add_row(one.shell_id, state(one), f"{one.cols} x {one.rows}", when(one.started_at), plain(one.cwd))
    put(console, rows)


def after_read(result: ShellRead, output: Output) -> None:
    """The output as it stands, and on stderr what it lacks and where to read on."""
    if result.missed_bytes:
        output.notice(f"not kept: {count_of(result.missed_bytes, 'byte')} before this")
    shown = result.output
    if result.plain and shown and not shown.endswith("\n") and is_terminal(STDOUT):
        shown += "\n"  # A prompt as a rule, behind which the next one of the person's own shell would begin.
    output.live(STDOUT, shown.encode("utf-8", "surrogateescape"))
    output.finish()
    if result.more:
        output.notice(f"there is more; read on with --cursor {result.next_cursor}")
    elif result.state != "running":
        output.notice(f"the shell is {state(result)}")


def draw_written(console: Console, result: ShellWritten) -> None:
    """That it was typed."""
    console.print(f"typed {count_of(result.input_length, 'character')} into {result.shell_id}")


def draw_signalled(console: Console, result: ShellSignalled) -> None:
    """That it was sent."""
    console.print(f"sent {result.signal_name} to what runs in {result.shell_id}")


def draw_resized(console: Console, result: Shell) -> None:
    """The size it has."""
    console.print(f"shell {result.shell_id} is {result.cols} x {result.rows}")


def draw_closed(console: Console, result: ShellClosed) -> None:
    """That it has ended."""
    console.print(f"shell {result.shell_id} {'was closed already' if result.already_closed else 'is closed'}")


def state(shell: Shell) -> str:
    """How it stands, with the code it ended with."""
    return shell.state if shell.exit_code is None else f"{shell.state} ({shell.exit_code})"
