"""Projects, for a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyro_mcp.model.project import AppliedProject, Project, ProjectService, ProjectTrust
from pyro_mcp.surfaces.cli.escapes import plain
from pyro_mcp.surfaces.cli.render.common import fields

if TYPE_CHECKING:
    from rich.console import Console


def draw_project(console: Console, result: Project) -> None:
    """What the file says, and what of it needs consent."""
    if result.file is None:
        console.print(f"{plain(result.repo_url or result.path)} has no pyro.toml", soft_wrap=True)
        return
    fields(
        console,
        (
            ("project", result.repo_url or result.path),
            ("file", result.file),
            *((name, str(value)) for name, value in result.settings.items()),
            *((f"set-up {number}", line) for number, line in enumerate(result.setup, 1)),
            *((f"service {name}", str(service.get("command"))) for name, service in result.services.items()),
        ),
    )
    if not result.widens:
        asks = "nothing beyond what a workspace gets anyway"
        console.print(f"it asks for {asks}{', and is trusted' if result.trusted else ''}")
        return
    console.print("trusted:" if result.trusted else "not trusted, so left out of its workspaces:")
    for line in result.widens:
        console.print(f"  {plain(line)}", soft_wrap=True)


def draw_trusted(console: Console, result: ProjectTrust) -> None:
    """That it is kept."""
    console.print(f"{plain(result.project)} is trusted until its pyro.toml changes", soft_wrap=True)


def draw_applied(console: Console, result: AppliedProject) -> None:
    """What became of the file in a new workspace; what was left out, a notice has said."""
    last = result.setup[-1] if result.setup_failed else None
    services = ", ".join(_service(one) for one in result.services)
    fields(
        console,
        (
            ("pyro.toml", f"{result.file}: {', '.join(result.applied) or 'nothing of it'}"),
            ("set-up", f"failed with {last.exit_code}: {last.command}" if last else f"{len(result.setup)} done"),
            ("services", services),
        ),
    )
    for line in last.output.splitlines() if last else ():
        console.print(f"  {plain(line)}", soft_wrap=True)


def _service(one: ProjectService) -> str:
    """What became of a service; one that failed has a log."""
    if one.state is None:
        return f"{one.service_name} not started: {'. '.join(filter(None, (one.reason, one.hint)))}"
    why = f": {one.reason}; see `pyro workspace service logs`" if one.state == "failed" and one.reason else ""
    return f"{one.service_name} {one.state}{why}"
