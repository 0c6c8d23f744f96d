"""Wording: operations and parameters by the names of the surface that shows a text.

A hint, a docstring or a help text names them by a mark: `<<start_workspace>>`, `<<create_workspace.allow_hosts>>`, or
with the value to give, `<<create_workspace.allow_hosts=example.com>>`. It travels as it stands; each surface puts in
the name that the operation's declaration has for it. Messages hold no marks: code and message are the same everywhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, get_args, get_origin

from pyro_mcp.errors import PyroError
from pyro_mcp.operations.fields import Field
from pyro_mcp.operations.operation import Operation
from pyro_mcp.surfaces import catalog

MARK = re.compile(r"<<([a-z_]+)(?:\.([a-z_]+)(?:=([^<>]*))?)?>>")
_HINTS = frozenset({"hint", "remedy"})
"""The fields of results that hold hints."""

NameVerb = Callable[[Operation[Any, Any]], str]
NameOption = Callable[[Operation[Any, Any], Field, str | None], str]


class Wording:
    """One surface's words: `verb` names an operation, `option` a parameter with or without a value."""

    def __init__(self, verb: NameVerb, option: NameOption) -> None:
        self._verb = verb
        self._option = option

    def text(self, text: str) -> str:
        """`text` with its marks replaced. What only looks like a mark stays."""
        return MARK.sub(self._named, text) if "<<" in text else text

    def error(self, error: PyroError) -> PyroError:
        """The same error, its hint in this surface's words."""
        if error.hint:
            error.hint = self.text(error.hint)
        return error

    def result(self, value: Any) -> Any:
        """An encoded result, its hints in this surface's words."""
        if isinstance(value, Mapping):
            return {
                name: self.text(part) if name in _HINTS and isinstance(part, str) else self.result(part)
                for name, part in value.items()
            }
        return [self.result(part) for part in value] if isinstance(value, list) else value

    def _named(self, mark: re.Match[str]) -> str:
        verb, name, value = mark.groups()
        operation = _operations().get(verb)
        if operation is None:
            return mark[0]
        if name is None:
            return self._verb(operation)
        field = next((one for one in operation.fields if one.name == name), None)
        return self._option(operation, field, value) if field else mark[0]


@cache
def _operations() -> dict[str, Operation[Any, Any]]:
    return {operation.name: operation for operation in catalog.every_operation()}


def given(field: Field, value: str) -> Any:
    """`value` as the parameter takes it: one of several, or a text."""
    kinds = {get_origin(kind) or kind for kind in (field.type, *get_args(field.type))}
    return [value] if list in kinds else value


def command_line(operation: Operation[Any, Any]) -> str:
    """The command that is the operation, or the method where there is none."""
    return f"`pyro {' '.join(operation.cli)}`" if operation.cli else operation.name


def _flag(operation: Operation[Any, Any], field: Field, value: str | None) -> str:
    name = field.flag if field.param.cli in ("option", "stdin") else field.param.metavar or field.name
    if value is not None:
        return f"{name} {value}"
    return f"{name} or {field.param.file_flag}" if field.param.file_flag else name


def _keyword(operation: Operation[Any, Any], field: Field, value: str | None) -> str:
    return f"{field.name}={given(field, value)!r}" if value is not None else field.name


def as_argument(field: Field, value: str | None) -> str:
    """A tool's argument as a model writes it."""
    return f"{field.name}: {json.dumps(given(field, value))}" if value is not None else field.name


CLI = Wording(command_line, _flag)
SDK = Wording(lambda operation: operation.name, _keyword)
