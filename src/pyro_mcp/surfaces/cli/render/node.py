"""The node, for a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyro_mcp.model.count import count_of
from pyro_mcp.model.node import NodeStatus, NodeStopped
from pyro_mcp.surfaces.cli.render.common import fields, size

if TYPE_CHECKING:
    from rich.console import Console


def draw_status(console: Console, status: NodeStatus) -> None:
    """Whether it runs, and what it holds."""
    if not status.running:
        console.print(f"no node runs for {status.state_dir}; the next command starts one", soft_wrap=True)
        return
    started = status.started_at.strftime("%Y-%m-%d %H:%M:%S UTC") if status.started_at else ""
    fields(
        console,
        (
            ("node", f"running, process {status.pid}, version {status.version}"),
            ("since", started),
            ("machines", _machines(status)),
            ("ahead", f"{len(status.pool)} restored, at most {status.pool_size} for each kind used of late"),
            ("memory", size(status.resident_bytes)),
            ("leaves after", f"{status.idle_seconds} s idle"),
            ("state", status.state_dir),
        ),
    )


def _machines(status: NodeStatus) -> str:
    count, running = status.machine_count or 0, status.running_count or 0
    stopped = f", {count - running} stopped" if count > running else ""
    return f"{running} running{stopped}; at most {status.max_machines} in all"


def draw_stopped(console: Console, result: NodeStopped) -> None:
    """What ended."""
    machines = f" and {count_of(result.machine_count, 'machine')} with it" if result.machine_count else ""
    console.print(f"the node has stopped{machines}" if result.stopped else "no node was running")
