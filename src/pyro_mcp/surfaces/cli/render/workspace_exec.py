"""Workspace exec, for a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyro_mcp.model.count import count_of
from pyro_mcp.model.workspace_exec import CommandOutput, WorkspaceExec, WorkspaceLogs
from pyro_mcp.surfaces.cli.escapes import plain
from pyro_mcp.surfaces.cli.output import Output
from pyro_mcp.surfaces.cli.render.network import tell_refusals
from pyro_mcp.surfaces.cli.render.workspace import when

if TYPE_CHECKING:
    from rich.console import Console


def after_exec(result: WorkspaceExec, output: Output) -> None:
    """The output has been shown already: say on stderr what the exit code alone does not explain."""
    tell_refusals(result.network_refusals, output)
    if result.state == "running":
        follow = f"pyro workspace logs {result.workspace_id} --sequence {result.sequence}"
        output.notice(f"the command goes on as number {result.sequence}; follow it with: {follow}")
    elif result.timed_out:
        output.notice(f"the command was killed after {result.duration_ms / 1000:.1f} s (--timeout-seconds)")
    elif result.signal:
        output.notice(f"the command was ended by {result.signal}")


def draw_logs(console: Console, result: WorkspaceLogs) -> None:
    """Each command with what it said."""
    if not result.count:
        console.print("nothing was run here since the last reset")
    if result.command_count > result.count > 1:
        console.print(f"the last {result.count} of {count_of(result.command_count, 'command')}")
    for entry in result.entries:
        console.print(f"[{entry.sequence}] {plain(entry.command)}", soft_wrap=True)
        console.print(f"    {when(entry.recorded_at)}, {outcome(entry)}", soft_wrap=True)
        for text in (entry.stdout, entry.stderr):
            for line in text.splitlines():
                console.print(f"    {plain(line)}", soft_wrap=True)
        if entry.more or entry.state == "running":
            left = "there is more" if entry.more else "goes on"
            console.print(f"    ({left}; read on with --cursor {entry.next_cursor})", soft_wrap=True)


def outcome(entry: CommandOutput) -> str:
    """How a command stands, in a few words."""
    seconds = f"{entry.duration_ms / 1000:.1f} s"
    if entry.state == "running":
        return f"running for {seconds}"
    if entry.state in ("lost", "not_started"):
        return f"{entry.state.replace('_', ' ')}: {plain(entry.reason or 'its machine went away')}"
    if entry.state == "ended":
        return f"{plain(entry.reason or 'it was ended')} after {seconds}"
    return f"{'timed out' if entry.timed_out else f'exit {entry.exit_code}'} after {seconds}"
