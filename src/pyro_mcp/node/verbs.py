"""The operations by their names on the wire: all of them, and what a node answers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any

from pyro_mcp.api import VERB_MODULES
from pyro_mcp.operations.operation import Operation, operations_in


@cache
def every_operation() -> Mapping[str, Operation[Any, Any]]:
    """Name → operation."""
    modules = (import_module(f"pyro_mcp.api.{name}") for name in VERB_MODULES)
    return {operation.name: operation for module in modules for operation in operations_in(module)}


@cache
def operations() -> Mapping[str, Operation[Any, Any]]:
    """Name → operation, without those that run in the caller's process."""
    return {name: operation for name, operation in every_operation().items() if not operation.local}
