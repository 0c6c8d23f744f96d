"""What a node answers: every operation that is not local, by its name on the wire."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from pyro_mcp.operations.operation import Operation, operations_in


@cache
def operations() -> Mapping[str, Operation[Any, Any]]:
    """Name → operation."""
    from pyro_mcp.workspaces import environments, run, vm

    found = (operation for module in (run, vm, environments) for operation in operations_in(module))
    return {operation.name: operation for operation in found if not operation.local}
