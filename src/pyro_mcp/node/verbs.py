"""What a node answers: every operation that is not local, by its name on the wire."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any

from pyro_mcp.operations.operation import Operation, operations_in
from pyro_mcp.workspaces import VERB_MODULES


@cache
def operations() -> Mapping[str, Operation[Any, Any]]:
    """Name → operation."""
    modules = (import_module(f"pyro_mcp.workspaces.{name}") for name in VERB_MODULES)
    found = (operation for module in modules for operation in operations_in(module))
    return {operation.name: operation for operation in found if not operation.local}
