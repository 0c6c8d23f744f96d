"""Wording: operations and parameters by the names of whoever reads a text.

A hint, a docstring or a help text holds a placeholder: `<<start_workspace>>`, or with what it is about,
`<<start_workspace(mine)>>`; `<<create_workspace.allow_hosts>>`, or with the value to give,
`<<create_workspace.allow_hosts=example.com>>`. It travels as it stands; each surface, and the
node's log, put in the name that the operation's declaration has for it. Messages hold no placeholders: code and
message are the same everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from pyro_mcp.errors import PyroError
from pyro_mcp.operations.fields import Field
from pyro_mcp.operations.operation import Operation

PLACEHOLDER = re.compile(r"<<([a-z_]+)(?:\.([a-z0-9_]+)(?:=([^<>]*))?|\(([^<>()]*)\))?>>")
_HINTS = frozenset({"hint", "remedy"})
"""The fields of results that hold hints."""

NameVerb = Callable[[Operation[Any, Any]], str]
NameCall = Callable[[Operation[Any, Any], str], str]
NameOption = Callable[[Operation[Any, Any], Field, str | None], str]
Operations = Callable[[], Mapping[str, Operation[Any, Any]]]


class Wording:
    """One reader's words: `verb` names an operation, `option` a parameter with or without a value. `operations` are
    asked for when the first placeholder is met. `call` names an operation with its first argument, for a reader who is
    to see that."""

    def __init__(
        self, verb: NameVerb, option: NameOption, operations: Operations, call: NameCall | None = None
    ) -> None:
        self._verb = verb
        self._call = call
        self._option = option
        self._operations = operations

    def text(self, text: str) -> str:
        """`text` with its placeholders replaced. What only looks like one stays."""
        return PLACEHOLDER.sub(self._named, text) if "<<" in text else text

    def error(self, error: PyroError) -> PyroError:
        """The same error, its hint in the reader's words."""
        if error.hint:
            error.hint = self.text(error.hint)
        return error

    def result(self, value: Any) -> Any:
        """An encoded result, its hints in the reader's words."""
        if isinstance(value, Mapping):
            return {
                name: self.text(part) if name in _HINTS and isinstance(part, str) else self.result(part)
                for name, part in value.items()
            }
        return [self.result(part) for part in value] if isinstance(value, list) else value

    def _named(self, placeholder: re.Match[str]) -> str:
        verb, name, value, subject = placeholder.groups()
        operation = self._operations().get(verb)
        if operation is None:
            return placeholder[0]
        if subject is not None and self._call is not None:
            return self._call(operation, subject)
        if name is None:
            return self._verb(operation)
        field = next((one for one in operation.fields if one.name == name), None)
        return self._option(operation, field, value) if field else placeholder[0]


def command_line(operation: Operation[Any, Any]) -> str:
    """The command that is the operation, or the method where there is none."""
    return f"`pyro {' '.join(operation.cli)}`" if operation.cli else operation.name


def command_on(operation: Operation[Any, Any], subject: str) -> str:
    """The command that is the operation, on `subject`."""
    return f"`pyro {' '.join(operation.cli)} {subject}`" if operation.cli else f"{operation.name} {subject}"


def flag(operation: Operation[Any, Any], field: Field, value: str | None) -> str:
    name = field.flag if field.param.cli in ("option", "stdin", "json_file") else field.param.metavar or field.name
    if value is not None:
        return f"{name} {value}"
    return f"{name} or {field.param.file_flag}" if field.param.file_flag else name
