"""Validate: untrusted parameters against a verb's fields, with messages for people.

The same check runs in the client, for a quick answer without a node, and in the node, which trusts no client. What can
be meant in only one way is taken as that (`coerce`).
"""

from __future__ import annotations

import contextlib
import json
import re
import types
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

import msgspec

from pyro_mcp.errors import InvalidArgument
from pyro_mcp.model.count import count_of
from pyro_mcp.operations.coerce import coerce, members_of
from pyro_mcp.operations.fields import Field

_TYPES = re.compile(r"^Expected `([a-z| ]+)`, got `\w+`$")
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
    "object": "a mapping of names to values",
}
_LENGTHS = re.compile(r"^Expected `(\w+)` of length (>=|<=) (\d+)$")
_AT = re.compile(r" - at `\$\.?([^`]*)`$")


def validate(verb: str, fields: tuple[Field, ...], params: Mapping[str, Any]) -> dict[str, Any]:
    """The typed parameters with defaults filled in. Raises `InvalidArgument` for the first that breaks its rule."""
    known = {field.name: field for field in fields}
    for name in params:
        if name not in known:
            raise InvalidArgument(
                f"cannot call {verb}: it has no parameter {name[:64]!r}",
                hint=f"It takes: {', '.join(known) or 'nothing'}.",
            )
    return {field.name: _value(verb, field, params) for field in fields}


def _value(verb: str, field: Field, params: Mapping[str, Any]) -> Any:
    if field.name not in params:
        if field.required:
            raise _refused(verb, field, "it is missing")
        return field.default
    value = params[field.name] if field.param.stream else coerce(params[field.name], field.type)
    if _has_nul(value):
        raise _refused(verb, field, "it contains a NUL character")
    if (reason := _unknown_key(value, field.type)) is not None:
        raise _refused(verb, field, reason)
    max_ = field.param.max_bytes
    if max_ is not None and (size := _size(value)) > max_:
        raise InvalidArgument(
            f"cannot use {field.name}: it takes {count_of(size, 'byte')}, at most {max_} fit",
            hint="Put it into a file and let a short command read that.",
        )
    if field.param.pattern and isinstance(value, str) and value.endswith("\n"):
        # `$` in a regular expression matches before a last newline too.
        raise _refused(verb, field, "it ends with a newline")
    try:
        return msgspec.convert(value, json_type(field))
    except msgspec.ValidationError as error:
        raise _refused(verb, field, _reason(field, str(error), value)) from None


def _unknown_key(value: Any, kind: Any) -> str | None:
    """What is wrong with a mapping of fixed keys, here or in a list, that has another one."""
    for member in members_of(kind):
        if is_typeddict(member) and isinstance(value, dict):
            keys = get_type_hints(member)
            unknown = next((str(name) for name in value if name not in keys), None)
            return None if unknown is None else f"it has no key {unknown[:64]!r}, only {', '.join(keys)}"
        if get_origin(member) is list and isinstance(value, list):
            found = (_unknown_key(part, *get_args(member)) for part in value)
            return next((one for one in found if one is not None), None)
    return None


def json_type(field: Field) -> Any:
    """The type of `field` as msgspec reads it, for conversion and for JSON schema."""
    return _json_type(field.type, field.optional, field.param.stream, field.param)


@cache
def _json_type(kind: Any, optional: bool, stream: bool, param: Any) -> Any:
    if stream:
        return bool
    numbers = {"ge": param.ge, "le": param.le}
    texts = {"min_length": param.min_length, "max_length": param.max_length}
    typed = _constrained(kind, numbers, texts, param.pattern)
    return Union[typed, None] if optional else typed  # noqa: UP007


def _constrained(kind: Any, numbers: dict[str, Any], texts: dict[str, Any], pattern: str | None) -> Any:
    if get_origin(kind) in (Union, types.UnionType):
        members = tuple(_constrained(member, numbers, texts, pattern) for member in get_args(kind))
        return Union[members]  # noqa: UP007
    if get_origin(kind) is Literal:
        return kind
    rules = numbers if kind in (int, float) else texts if kind is not bool else {}
    rules = {name: value for name, value in rules.items() if value is not None}
    if kind is str and pattern is not None:
        rules["pattern"] = pattern
    return Annotated[kind, msgspec.Meta(**rules)] if rules else kind


def _has_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, list):
        return any(_has_nul(item) for item in value)
    return isinstance(value, dict) and any(_has_nul(part) for pair in value.items() for part in pair)


def _size(value: Any) -> int:
    if isinstance(value, list):
        return sum(_size(item) + 1 for item in value)
    if isinstance(value, dict):
        return sum(_size(part) + 1 for pair in value.items() for part in pair)
    return len(value.encode("utf-8", "surrogatepass")) if isinstance(value, str) else 0


def _reason(field: Field, text: str, value: Any) -> str:
    """msgspec's message in our words: the rule, then what was given."""
    at = _AT.search(text)
    core = _LENGTHS.sub(_length_in_words, _TYPES.sub(_in_words, _AT.sub("", text))).replace("`", "")
    if field.choices:
        core = f"expected one of {', '.join(field.choices)}"
    elif field.param.rule and isinstance(value, str):
        core = f"expected {field.param.rule}"
    elif field.param.limits and isinstance(value, int | float) and not isinstance(value, bool):
        whole = "a whole number, " if field.type is int and isinstance(value, float) else ""
        core = f"expected {whole}{field.param.limits}"
    where = f" at {at.group(1)}" if at and at.group(1) else ""
    if where == " at [...]" and isinstance(value, dict):
        where = f" at {_at_key(value)}"
    if field.param.secret:
        return f"{core[:1].lower()}{core[1:]}"
    shown = _shown(value)
    return f"{core[:1].lower()}{core[1:]}{where}, got {shown if len(shown) <= 80 else shown[:77] + '...'}"


def _at_key(texts: dict[Any, Any]) -> str:
    """Where in a mapping of texts there is none, and how what stands there would be written as one."""
    name, value = next((pair for pair in texts.items() if not isinstance(pair[1], str)), ("[...]", None))
    plain = isinstance(value, bool | int | float)
    return str(name)[:64] + (f", such as {json.dumps(json.dumps(value))}" if plain else "")


def _shown(value: Any) -> str:
    """What was given, as JSON where Python would write it in words of its own."""
    if value is None or isinstance(value, bool | list | dict):
        with contextlib.suppress(TypeError, ValueError):
            return json.dumps(value, ensure_ascii=False, default=repr)
    return repr(value)


def _in_words(types: re.Match[str]) -> str:
    """What was expected; what came is shown as it is, and null for what is optional goes without saying."""
    return f"expected {' or '.join(_WORDS.get(kind, kind) for kind in types[1].split(' | ') if kind != 'null')}"


def _length_in_words(length: re.Match[str]) -> str:
    kind, way, count = length.groups()
    return f"expected {_WORDS.get(kind, kind)} of length {count} or {'more' if way == '>=' else 'less'}"


def _refused(verb: str, field: Field, reason: str) -> InvalidArgument:
    return InvalidArgument(f"cannot use {field.name}: {reason}", hint=f"<<{verb}.{field.name}>>: {field.description}.")
