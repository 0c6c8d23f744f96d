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
    "create_workspace": ("workspace", "draw_created"),
    "status_workspace": ("workspace", "draw_one"),
    "update_workspace": ("workspace", "draw_one"),
    "start_workspace": ("workspace", "draw_one"),
    "stop_workspace": ("workspace", "draw_one"),
    "list_workspaces": ("workspace", "draw_list"),
    "delete_workspace": ("workspace", "draw_deleted"),
    "reset_workspace": ("workspace", "draw_reset"),
    "create_snapshot": ("snapshot", "draw_one"),
    "list_snapshots": ("snapshot", "draw_list"),
    "delete_snapshot": ("snapshot", "draw_deleted"),
    "logs_workspace": ("workspace_exec", "draw_logs"),
    "list_workspace_files": ("files", "draw_list"),
    "write_workspace_file": ("files", "draw_written"),
    "search_workspace_files": ("files", "draw_search"),
    "apply_workspace_patch": ("changes", "draw_patched"),
    "push_workspace_sync": ("changes", "draw_pushed"),
    "export_workspace": ("changes", "draw_exported"),
    "summarize_workspace": ("summary", "draw_summary"),
    "start_service": ("service", "draw_started"),
    "list_services": ("service", "draw_list"),
    "status_service": ("service", "draw_one"),
    "stop_service": ("service", "draw_one"),
    "list_workspace_disk": ("files", "draw_list"),
    "export_workspace_disk": ("disk", "draw_exported"),
    "open_shell": ("shell", "draw_opened"),
    "list_shells": ("shell", "draw_list"),
    "write_shell": ("shell", "draw_written"),
    "signal_shell": ("shell", "draw_signalled"),
    "resize_shell": ("shell", "draw_resized"),
    "close_shell": ("shell", "draw_closed"),
    "diagnose": ("doctor", "draw_report"),
    "node_status": ("node", "draw_status"),
    "node_stop": ("node", "draw_stopped"),
    "host_change": ("host", "draw_changes"),
    "host_doctor": ("host", "draw_reports"),
}


_TALKERS = {
    "run_in_vm": ("run", "after_run"),
    "exec_workspace": ("workspace_exec", "after_exec"),
    "read_workspace_file": ("files", "after_read"),
    "read_workspace_disk": ("files", "after_read"),
    "diff_workspace": ("changes", "after_diff"),
    "read_shell": ("shell", "after_read"),
    "logs_service": ("service", "after_logs"),
}
"""Verbs whose answer is a stream of bytes: they use stdout and stderr by themselves."""


def show(verb: str, result: Any, output: Output) -> None:
    """Print `result` of `verb` for a person."""
    if verb in _TALKERS:
        module, name = _TALKERS[verb]
        getattr(import_module(f"pyro_mcp.surfaces.cli.render.{module}"), name)(result, output)
        return
    module, name = _DRAWERS[verb]
    draw = getattr(import_module(f"pyro_mcp.surfaces.cli.render.{module}"), name)
    output.text(lambda console: draw(console, result))
