"""Short: the view of a result that a model pays for: what is news in it, and nothing besides.

Left out is what is null, false, zero or empty, what repeats an argument or its default, and what goes without saying
(`_USUAL`, `_ASIDE`); a value that is there is the encoder's own, but for fractions of seconds. A field whose empty
value is news is kept (`_NEWS`, `_HEADLINES`). What a result's type does not know is passed on as it is.
Decision 20 says why.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

from pyro_mcp.operations.coerce import members_of
from pyro_mcp.operations.operation import Operation

_NEWS = frozenset({"exit_code", "enforced", "installed", "allow_hosts"})
"""Fields that tell something when they are false, zero or empty, wherever they stand."""

_HEADLINES = frozenset({"changed", "deleted", "closed", "count", "content", "output", "next_cursor"})
"""The same for the answer itself."""

_USUAL: dict[str, Any] = {
    "execution_mode": "guest",
    "enforced": True,
    "state": "finished",
    "mode": "empty",
    "protocol": "tcp",
    "restart": "off",
    **dict.fromkeys(("cwd", "workspace_path", "destination"), "/workspace"),
}
"""What a field nearly always says, and is not told for."""

_NAMED_OTHERWISE = {
    "destination": "dest",
    "output_path": "output",
    "workspace_path": "path",
    "snapshot_name": "snapshot",
}
"""Fields that repeat an argument of another name."""

_LATER = frozenset(
    {
        *("created_at", "last_activity_at", "ttl_seconds", "command_count", "last_command", "reset_count"),
        *("last_reset_at", "service_count", "running_service_count", "running_command_count"),
    }
)
"""What of a workspace its status tells, and its creation does not."""

_SETTLED = _LATER | {
    *("environment", "vcpu_count", "mem_mib", "network_policy", "allow_hosts", "allow_addresses", "host_ca"),
    *("workspace_seed", "secrets"),
}
"""What has been so since its creation, besides."""

_ASIDE: dict[str, frozenset[str]] = {
    "Workspace": frozenset({"network_enabled", "guest_ip"}),
    "WorkspaceExec": frozenset({"recorded_at"}),
    "WorkspaceReset": frozenset({"kind"}),
    "Vm": frozenset({"network_enabled"}),
    "PatchResult": frozenset({"patch"}),
    "DiffEntry": frozenset({"text_patch"}),
    "FileContent": frozenset({"max_bytes"}),
    "FileWritten": frozenset({"bytes_written"}),
    "Environment": frozenset({"cache_dir", "install_dir", "catalog_version", "digest", "packages", "source"}),
    "EnvironmentList": frozenset({"catalog_version"}),
    "Snapshot": frozenset({"kind", "deletable"}),
    "Shell": frozenset({"started_at", "cols", "rows"}),
}
"""Fields of a type that no tool tells: they follow from others, or a model has no use for them."""

_ROWS: dict[str, frozenset[str]] = {
    "Workspace": frozenset(
        {
            *("workspace_id", "name", "state", "environment", "labels", "last_activity_at", "expires_at", "isolation"),
            *("running_service_count", "running_command_count"),
        }
    ),
    "Environment": frozenset({"name", "description", "default_packages", "installed", "size_bytes"}),
}
"""What a row of a list tells of these types."""

_METADATA = frozenset({"machine_id", "file_system"})
"""What of a workspace's metadata its status alone tells, and what all say alike."""

_FRACTION = re.compile(r"(T\d\d:\d\d:\d\d)\.\d+")


def short(operation: Operation[Any, Any], payload: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What of `payload`, the encoded result of `operation`, is news to whoever gave `arguments`."""
    return _ShortView(operation, arguments).of(payload, operation.result_type, top=True)


class _ShortView:
    def __init__(self, operation: Operation[Any, Any], arguments: Mapping[str, Any]) -> None:
        self._tool = operation.tool
        # No network is a default that a model does not reckon with.
        defaults = {field.name: field.default for field in operation.fields if field.name != "network_policy"}
        self._given = defaults | dict(arguments)

    def of(self, value: Mapping[str, Any], kind: Any, *, top: bool = False, row: bool = False) -> dict[str, Any]:
        """What is news in `value`, an encoded `kind`; a `row` is one of several, which repeats no argument."""
        kinds, shown = _kinds(kind), {}
        aside = _aside(self._tool, kind, row=row)
        for name, given in value.items():
            part = self._part(given, kinds.get(name), name)
            news = name in _NEWS or (top and name in _HEADLINES)
            if name in aside or part is None or (not part and not news):
                continue
            if _USUAL.get(name) == part or self._repeats(name, part, row=row) or _is_idle(name, value, kind):
                continue
            shown[name] = part
        return shown

    def _part(self, value: Any, kind: Any, name: str) -> Any:
        if isinstance(value, Mapping):
            if name == "cleanup":
                return None if value.get("deleted") else value
            if name == "metadata":
                aside = _METADATA - {"machine_id"} if self._tool == "workspace_status" else _METADATA
                return {key: part for key, part in value.items() if key not in aside}
            return self.of(value, kind) if is_dataclass(kind) else value
        if isinstance(value, list) and get_origin(kind) is list and is_dataclass(item := get_args(kind)[0]):
            return [self.of(part, item, row=True) for part in value]
        return _FRACTION.sub(r"\1", value) if kind is datetime and isinstance(value, str) else value

    def _repeats(self, name: str, value: Any, *, row: bool) -> bool:
        if row:
            return name == "workspace_id" and value == self._given.get(name)
        if name == "command":
            return "command" in self._given or "argv" in self._given
        given = self._given.get(name, self._given.get(_NAMED_OTHERWISE.get(name, "")))
        if name in ("path", "workspace_path", "destination", "cwd") and isinstance(given, str):
            given = posixpath.normpath(posixpath.join("/workspace", given))
        return bool(value == given)


def _aside(tool: str | None, kind: Any, *, row: bool) -> frozenset[str]:
    names = [one.__name__ for one in kind.__mro__]
    rows = next((_ROWS[name] for name in names if name in _ROWS), None) if row else None
    if rows is not None:
        return frozenset(field.name for field in fields(kind)) - rows
    aside = frozenset().union(*(_ASIDE.get(name, ()) for name in names))
    if "Workspace" not in names or tool == "workspace_status":
        return aside
    return aside | (_LATER if tool == "workspace_create" else _SETTLED - {"reset_count"})


def _is_idle(name: str, value: Mapping[str, Any], kind: Any) -> bool:
    """Whether the field `name` of `value` is of no use there: a cursor past which nothing will come, the number of all
    where all are here, the id of a machine that is gone, and once more what isolates a workspace."""
    if name == "next_cursor":
        return value.get("more") is False and value.get("state", "") != "running"
    if name in ("total", "command_count"):
        return bool(value[name] == value.get("count"))
    if name == "vm_id":
        return bool(value.get("cleanup", {}).get("deleted"))
    tells = {"Workspace", "Vm", "VmNetwork", "RunResult"} & {one.__name__ for one in kind.__mro__}
    return name == "isolation" and value["isolation"] != "none" and not tells


@cache
def _kinds(kind: Any) -> dict[str, Any]:
    """The types of the fields of `kind`, without null."""
    found = get_type_hints(kind)
    return {name: next(one for one in members_of(part) if one is not type(None)) for name, part in found.items()}
