"""Catalog: which operations a surface shows, and where they are declared.

The first word of a command names the few modules whose declarations must be read to parse it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from typing import Any, Literal, get_args

from pyro_mcp.api import VERB_MODULES
from pyro_mcp.errors import InvalidArgument
from pyro_mcp.operations.fields import Field
from pyro_mcp.operations.operation import Operation, operations_in

Profile = Literal["vm-run", "workspace-core", "workspace-full"]
DEFAULT_PROFILE: Profile = "workspace-core"
PROFILES: tuple[str, ...] = get_args(Profile)

WORKSPACE_MODULES = (
    "workspace",
    "exec",
    "file",
    "patch",
    "diff",
    "sync",
    "export",
    "snapshot",
    "summary",
    "service",
    "disk",
    "shell",
)
COMMANDS: dict[str, tuple[tuple[str, ...], str]] = {
    "run": (("run",), "run one command in a fresh machine"),
    "env": (("environment",), "list, install and remove environments"),
    "workspace": (WORKSPACE_MODULES, "create and use persistent sandboxes"),
    "project": (("project",), "see and trust what a project asks for its workspaces"),
    "doctor": (("doctor",), "show what this host can do and what is missing"),
}
"""First word of a command → the modules of `api` that declare it, and its line in `pyro --help`."""

GROUPS: dict[tuple[str, str], str] = {
    ("workspace", "snapshot"): "save, list and remove checkpoints",
    ("workspace", "file"): "list, read, write, edit and search files",
    ("workspace", "patch"): "change several files as one",
    ("workspace", "service"): "run long-running processes",
    ("workspace", "disk"): "look into a stopped workspace",
    ("workspace", "shell"): "open and use terminals that stay",
    ("workspace", "sync"): "copy from this host into it",
}
"""Two words that begin several commands → their line of help."""

_CORE = frozenset(
    {
        *("vm_run", "workspace_create", "workspace_list", "workspace_update", "workspace_status", "workspace_start"),
        *(
            "workspace_exec",
            "workspace_logs",
            "workspace_reset",
            "workspace_delete",
            "workspace_sync_push",
            "workspace_export",
            "workspace_diff",
        ),
        *("workspace_file_list", "workspace_file_read", "workspace_file_write", "workspace_file_edit"),
        *("workspace_file_search", "workspace_patch_apply", "workspace_summary"),
    }
)
"""The tools of `workspace-core`; `vm-run` has the first, `workspace-full` all there are."""


def operations(module: str) -> Iterator[Operation[Any, Any]]:
    """The operations that `api.<module>` declares."""
    return operations_in(import_module(f"pyro_mcp.api.{module}"))


def every_operation() -> Iterator[Operation[Any, Any]]:
    """All operations of all modules."""
    for module in VERB_MODULES:
        yield from operations(module)


def tools(profile: str) -> tuple[Operation[Any, Any], ...]:
    """The operations that the MCP profile shows. Raises `InvalidArgument` for a profile that does not exist."""
    if profile not in PROFILES:
        raise InvalidArgument(f"cannot serve profile {profile!r}: unknown", hint=f"Profiles: {', '.join(PROFILES)}.")
    found = [operation for operation in every_operation() if operation.tool]
    if profile == "workspace-full":
        return tuple(found)
    shown = {"vm_run"} if profile == "vm-run" else _CORE
    return tuple(operation for operation in found if operation.tool in shown)


def tool_fields(
    operation: Operation[Any, Any], profile: str, *, allow_host_compat: bool, project: bool = False
) -> tuple[Field, ...]:
    """The parameters a tool shows. What could widen isolation is absent unless the server was started with it."""
    shown = {"always"}
    if profile == "workspace-full":
        shown.add("full")
    if allow_host_compat:
        shown.add("host_compat")
    if project:
        shown.add("project")
    return tuple(part for field in operation.fields if field.param.tool in shown for part in _for_tools(field))


def _for_tools(field: Field) -> tuple[Field, ...]:
    """What a tool takes for `field`: it has no streams, and where that is declared, one parameter for each type, or a
    range or a default of its own; more than `tool_max` is asked for in vain."""
    param = field.param
    if param.tool_forms:
        forms = zip(param.tool_forms, get_args(field.type), strict=True)
        return tuple(
            replace(field, name=name, type=kind, optional=True, default=None, param=replace(param, help=text))
            for (name, text), kind in forms
        )
    if param.stream:
        text = replace(param, stream=False, help=param.tool_help or param.help, max_bytes=param.tool_max)
        return (replace(field, type=str, optional=True, param=text),)
    if param.tool_default is not None:
        return (replace(field, default=param.tool_default),)
    if param.tool_max is not None:
        return (replace(field, default=min(field.default, param.tool_max), param=replace(param, le=param.tool_max)),)
    return (field,)
