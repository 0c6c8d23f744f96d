"""Services, for a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyro_mcp.model.service import Service, ServiceList, ServiceLogs, StartedService
from pyro_mcp.surfaces.cli.escapes import plain
from pyro_mcp.surfaces.cli.output import Output
from pyro_mcp.surfaces.cli.render.common import fields, put, table
from pyro_mcp.surfaces.cli.render.workspace import when

if TYPE_CHECKING:
    from rich.console import Console

LINES = 20


def draw_list(console: Console, result: ServiceList) -> None:
    """One line per service."""
    if not result.count:
        console.print("no services since the last reset")
        return
    rows = table("NAME", "STATE", "SINCE", "PORTS", "COMMAND", folds=("SINCE", "PORTS", "COMMAND"))
    for one in result:
        since = one.ended_at or one.ready_at or one.started_at
        rows.add_row(one.service_name, one.state, when(since), ports(one), plain(one.command)[:60])
    put(console, rows)


def draw_one(console: Console, result: Service) -> None:
    """Everything about it, where there is something to say."""
    fields(
        console,
        (
            ("service", result.service_name),
            ("state", result.state),
            ("why", plain(result.stop_reason or "")),
            ("command", plain(result.command)),
            ("directory", plain(result.cwd)),
            ("ports", ports(result)),
            ("process", str(result.pid) if result.pid is not None else ""),
            ("exit code", str(result.exit_code) if result.exit_code is not None else ""),
            ("restarts", str(result.restart_count) if result.restart_count else ""),
            ("started", when(result.started_at)),
            ("ready", when(result.ready_at) if result.ready_at else ""),
            ("ended", when(result.ended_at) if result.ended_at else ""),
        ),
    )


def draw_started(console: Console, result: StartedService) -> None:
    """What became of it, and where that is nothing good, the end of what it said."""
    draw_one(console, result)
    if result.state == "failed":
        for line in (result.stderr or result.stdout).splitlines()[-LINES:]:
            console.print(f"  | {plain(line)}", soft_wrap=True)


def after_logs(result: ServiceLogs, output: Output) -> None:
    """Both streams as they are, each on its own."""
    output.live(1, result.stdout.encode("utf-8", "surrogateescape"))
    output.live(2, result.stderr.encode("utf-8", "surrogateescape"))
    output.finish()
    if result.truncated:
        output.notice("there was more before that")


def ports(result: Service) -> str:
    """Where this host reaches it."""
    return ", ".join(
        f"{port.host}:{port.host_port} -> {port.guest_port}" + (f" ({plain(port.problem)})" if port.problem else "")
        for port in result.published_ports
    )
