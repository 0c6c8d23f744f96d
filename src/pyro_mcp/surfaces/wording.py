"""The words of each surface: what `operations.wording` puts in for a placeholder on the command line and in Python."""

from __future__ import annotations

import json
from typing import Any, get_args, get_origin

from pyro_mcp.node.verbs import every_operation
from pyro_mcp.operations.fields import Field
from pyro_mcp.operations.operation import Operation
from pyro_mcp.operations.wording import Wording, command_line, command_on, flag


def given(field: Field, value: str) -> Any:
    """`value` as the parameter takes it: one of several, or a text."""
    kinds = {get_origin(kind) or kind for kind in (field.type, *get_args(field.type))}
    return [value] if list in kinds else value


def _keyword(operation: Operation[Any, Any], field: Field, value: str | None) -> str:
    return f"{field.name}={given(field, value)!r}" if value is not None else field.name


def _method(operation: Operation[Any, Any], subject: str) -> str:
    return f"{operation.name}({subject!r})"


def as_argument(field: Field, value: str | None) -> str:
    """A tool's argument as a model writes it."""
    return f"{field.name}: {json.dumps(given(field, value))}" if value is not None else field.name


CLI = Wording(command_line, flag, every_operation, command_on)
SDK = Wording(lambda operation: operation.name, _keyword, every_operation, _method)
