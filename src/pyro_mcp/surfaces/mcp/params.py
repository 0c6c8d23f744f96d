"""Params: a tool's arguments as the operation's parameters.

A model means well: what can be read in one way only is taken, such as a list of words where a line is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, get_origin

from pyro_mcp.errors import InvalidArgument
from pyro_mcp.operations.coerce import coerce, members_of
from pyro_mcp.operations.fields import Field
from pyro_mcp.operations.operation import Operation
from pyro_mcp.operations.validate import validate


def requested(operation: Operation[Any, Any], fields: tuple[Field, ...], given: Mapping[str, Any]) -> dict[str, Any]:
    """What was `given` to a tool that shows `fields` as the operation's valid parameters, paths of this host absolute,
    streams as their whole content. Raises `InvalidArgument`."""
    shown = {field.name: field for field in fields}
    joined = {name: _in_text(shown[name], value) if name in shown else value for name, value in given.items()}
    for field in fields:
        if field.param.tool_default is not None:
            joined.setdefault(field.name, field.default)
    for field in operation.fields:
        if field.param.tool_forms:
            joined = _joined(operation, field, joined)
        elif (field.param.stream or field.param.tool_max is not None) and field.name in joined and field.name in shown:
            # In the words and the range that the tool shows.
            validate(operation.name, (shown[field.name],), {field.name: joined[field.name]})
    params, streams = operation.separated(joined)
    typed = operation.validate(params)
    return {**operation.localized({name: typed[name] for name in params}), **streams}


def renamed(fields: Iterable[Field], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """`arguments` with a list under its own name where it was given by the name of one of its items."""
    known = {field.name: field for field in fields}

    def own(name: str) -> str:
        several = known.get(f"{name}s")
        is_list = several is not None and get_origin(members_of(several.type)[0]) is list
        return f"{name}s" if name not in known and is_list and f"{name}s" not in arguments else name

    return {own(name): value for name, value in arguments.items()}


def _joined(operation: Operation[Any, Any], field: Field, given: Mapping[str, Any]) -> dict[str, Any]:
    """`given` with the one form of `field` that it holds under the field's own name."""
    names = [name for name, _ in field.param.tool_forms]
    forms = {name: given[name] for name in names if name in given}
    # Some models fill in every parameter that a tool has.
    forms = {name: value for name, value in forms.items() if value or not any(forms.values())}
    hint = "; ".join(f"{name}: {text}" for name, text in field.param.tool_forms)
    if field.required and all(value is None for value in forms.values()):
        raise InvalidArgument(
            f"cannot use {field.name}: it is missing", hint=f"Give one of {' and '.join(names)}. {hint}"
        )
    if len(forms) > 1:
        raise InvalidArgument(f"cannot call {operation.tool}: it takes {' or '.join(names)}, not both", hint=hint)
    for name, value in forms.items():
        if name != field.name and isinstance(value, str):
            hint = f"Give a line as {field.name}"
            raise InvalidArgument(f"cannot call {operation.tool}: {name} takes a list of words", hint=hint)
        forms = {field.name: value}
    return {key: part for key, part in given.items() if key not in names} | forms


def _in_text(field: Field, value: Any) -> Any:
    """`value` with its whole numbers written out, if it is a list, also as JSON text, or a mapping of texts."""
    if isinstance(value, str) and field.type == list[str] and (read := coerce(value, field.type)) != [value]:
        value = read
    if isinstance(value, list) and field.type == list[str]:
        return [_digits(part) for part in value]
    if isinstance(value, dict) and field.type == dict[str, str]:
        return {name: _digits(part) for name, part in value.items()}
    return value


def _digits(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value
