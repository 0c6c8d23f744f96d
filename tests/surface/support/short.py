"""An MCP tool's short answer, read as the result that it is a view of (decision 20)."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

from pyro_mcp.operations.coerce import members_of
from pyro_mcp.operations.fields import MISSING

USUAL = {
    "execution_mode": "guest",
    "enforced": True,
    "state": "finished",
    "restart": "off",
    "protocol": "tcp",
    **dict.fromkeys(("cwd", "workspace_path", "destination"), "/workspace"),
}
ARGUMENTS = {"destination": "dest", "output_path": "output", "workspace_path": "path", "snapshot_name": "snapshot"}
"""Fields that repeat an argument of another name."""

BELOW = {
    **dict.fromkeys(("path", "cwd", "destination", "workspace_path"), "/workspace"),
    **dict.fromkeys(("output_path", "source_path", "seed_path"), None),
}
"""Where a relative path begins; None is this process's directory."""

FOLLOWS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "network_enabled": lambda told: told["network_policy"] != "off",
    "kind": lambda told: "baseline" if told["snapshot_name"] == "baseline" else "named",
    "deletable": lambda told: told["snapshot_name"] != "baseline",
    "bytes_written": lambda told: told["size_bytes"],
    "total": lambda told: told["count"],
    "command_count": lambda told: told["count"],
}

BESIDE = {
    "network_enabled": "network_policy",
    "kind": "snapshot_name",
    "deletable": "snapshot_name",
    "bytes_written": "size_bytes",
    "total": "count",
    "command_count": "count",
}
"""What each follows from."""


class Short(dict[str, Any]):
    """What is left out says what its absence means: what was asked for, what goes without saying, what follows from the
    rest, or nothing. What a model is not told at all is missing here too."""

    def __init__(self, told: dict[str, Any], kind: Any, given: dict[str, Any]) -> None:
        hints = get_type_hints(kind)
        self.kinds = {
            name: next(one for one in members_of(part) if one is not type(None)) for name, part in hints.items()
        }
        self._optional = {name for name, part in hints.items() if type(None) in members_of(part)}
        self._given = given
        super().__init__({name: self._inside(part, self.kinds.get(name)) for name, part in told.items()})

    def __missing__(self, name: str) -> Any:
        kind = self.kinds[name]
        given = self._given.get(name, self._given.get(ARGUMENTS.get(name, ""), MISSING))
        if given is not MISSING and given is not None:
            there = BELOW.get(name)
            return os.path.normpath(os.path.join(there or os.getcwd(), given)) if name in BELOW else given
        if name in USUAL or name in self._optional:
            return USUAL.get(name)
        if name in FOLLOWS and BESIDE[name] in self.kinds:
            return FOLLOWS[name](self)
        if is_dataclass(kind):
            return Short({}, kind, self._given)
        if kind in (bool, int, str) or get_origin(kind) in (list, dict):
            return (get_origin(kind) or kind)()
        raise KeyError(name)

    def _inside(self, value: Any, kind: Any) -> Any:
        if isinstance(value, dict) and is_dataclass(kind):
            return Short(value, kind, self._given)
        if isinstance(value, list) and get_origin(kind) is list and is_dataclass(item := get_args(kind)[0]):
            return [Short(part, item, {}) for part in value]
        return value


def promised(answer: dict[str, Any]) -> set[str]:
    """The fields that SDK and CLI tell, and that a short answer has a meaning for."""
    return set(answer.kinds) if isinstance(answer, Short) else set(answer)
