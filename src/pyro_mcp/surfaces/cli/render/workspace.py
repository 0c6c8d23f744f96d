"""Workspaces, for a person."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from pyro_mcp.model.count import count_of
from pyro_mcp.model.workspace import (
    ResetWorkspace,
    Workspace,
    WorkspaceDeleted,
    WorkspaceList,
    WorkspaceReset,
    WorkspaceSeed,
)
from pyro_mcp.surfaces.cli.escapes import plain
from pyro_mcp.surfaces.cli.render.changes import draw_skipped
from pyro_mcp.surfaces.cli.render.common import fields, put, size, table

if TYPE_CHECKING:
    from rich.console import Console

SKIPPED_SHOWN = 10


def draw_list(console: Console, result: WorkspaceList) -> None:
    """One line per workspace, the most recently active first."""
    if not result.count:
        console.print("no workspaces; make one with: pyro workspace create debian:12")
        return
    rows = table(
        "ID", "NAME", "STATE", "ENVIRONMENT", "LAST ACTIVITY", "EXPIRES", folds=("NAME", "LAST ACTIVITY", "EXPIRES")
    )
    for one in result:
        seen, ends = when(one.last_activity_at), when(one.expires_at)
        rows.add_row(one.workspace_id, plain(one.name or "-"), one.state, plain(one.environment), seen, ends)
    put(console, rows)


def draw_created(console: Console, result: Workspace) -> None:
    """A workspace that is new, and that its file system is not quite that of a disk."""
    draw_one(console, result)
    if "file_system" in result.metadata:
        console.print("/workspace is an overlay; what that refuses: --json, metadata.file_system", soft_wrap=True)


def draw_one(console: Console, result: Workspace) -> None:
    """Everything there is to know about one workspace."""
    reason = result.metadata.get("reason")
    last = result.last_command
    seed = result.workspace_seed
    left_out = f", {seed.skipped_count} left out or altered" if seed.skipped_count else ""
    fields(
        console,
        (
            ("workspace", result.workspace_id),
            ("name", result.name or ""),
            ("labels", ", ".join(f"{key}={value}" for key, value in result.labels.items())),
            ("state", f"{result.state}: {reason}" if reason else result.state),
            ("environment", result.environment),
            ("size", f"{result.vcpu_count} vCPU, {result.mem_mib} MiB"),
            ("isolation", isolation(result)),
            ("network", network(result)),
            (
                "seed",
                f"{seed.seed_path}: {described(seed)}{left_out}" if seed.seed_path else "",
            ),
            ("commands", f"{result.command_count}, {result.running_command_count} running" if last else ""),
            ("last command", f"{last.sequence}: {plain(last.command)[:100]}" if last else ""),
            ("resets", str(result.reset_count) if result.reset_count else ""),
            ("last activity", when(result.last_activity_at)),
            ("expires", when(result.expires_at)),
        ),
    )
    draw_skipped(console, seed.skipped, seed.skipped_count, most=SKIPPED_SHOWN)


def draw_reset(console: Console, result: ResetWorkspace) -> None:
    """What it has been reset to, and how it is now."""
    done = result.workspace_reset
    console.print(f"{result.workspace_id} is reset to {plain(done.snapshot_name)}: {described(done)}", soft_wrap=True)
    draw_one(console, result)


def described(what: WorkspaceSeed | WorkspaceReset) -> str:
    """How much it brought."""
    return f"{count_of(what.entry_count, 'entry', 'entries')}, {size(what.bytes_written)}"


def draw_deleted(console: Console, result: WorkspaceDeleted) -> None:
    """That it is gone."""
    console.print(f"{result.workspace_id} is deleted" if result.deleted else f"{result.workspace_id} was gone already")


def network(result: Workspace) -> str:
    """The policy, and what it was narrowed or widened by."""
    notes = [] if result.allow_hosts is None else [f"only {', '.join(result.allow_hosts) or 'nothing'}"]
    notes += [f"also {', '.join(result.allow_addresses)}"] if result.allow_addresses else []
    notes += ["with this host's certificates"] if result.host_ca else []
    notes += [result.metadata["network"]] if "network" in result.metadata else []
    return "; ".join((result.network_policy, *notes))


def isolation(result: Workspace) -> str:
    """What stands between the workspace and this host, in words where it is nothing."""
    return "none: plain processes of this host" if result.execution_mode == "host_compat" else result.isolation


def when(moment: datetime) -> str:
    """A moment as a person reads it, in UTC."""
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")
