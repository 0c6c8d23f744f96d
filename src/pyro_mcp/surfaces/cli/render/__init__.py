"""Render: what a person sees of each result. One module per noun; a verb without an entry prints its fields."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyro_mcp.surfaces.cli.output import Output

_DRAWERS = {
    "list_environments": ("environments", "draw_list"),
    "pull_environment": ("environments", "draw_pulled"),
    "inspect_environment": ("environments", "draw_one"),
    "prune_environments": ("environments", "draw_pruned"),
    "create_workspace": ("workspace", "draw_one"),
    "status_workspace": ("workspace", "draw_one"),
    "update_workspace": ("workspace", "draw_one"),
    "start_workspace": ("workspace", "draw_one"),
    "stop_workspace": ("workspace", "draw_one"),
    "list_workspaces": ("workspace", "draw_list"),
    "delete_workspace": ("workspace", "draw_deleted"),
    "logs_workspace": ("workspace_exec", "draw_logs"),
    "diagnose": ("doctor", "draw_report"),
    "node_status": ("node", "draw_status"),
    "node_stop": ("node", "draw_stopped"),
}


def show(verb: str, result: Any, output: Output) -> None:
    """Print `result` of `verb` for a person."""
    if verb == "run_in_vm":
        from pyro_mcp.surfaces.cli.render.run import after_run

        after_run(result, output)
        return
    if verb == "exec_workspace":
        from pyro_mcp.surfaces.cli.render.workspace_exec import after_exec

        after_exec(result, output)
        return
    module, name = _DRAWERS[verb]
    draw = getattr(import_module(f"pyro_mcp.surfaces.cli.render.{module}"), name)
    output.text(lambda console: draw(console, result))
