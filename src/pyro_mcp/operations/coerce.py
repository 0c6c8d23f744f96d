"""Coerce: what a caller plainly meant, in the type that the parameter has.

Models write `"5"` and `5.0` for 5, `"true"` for true, a bare value for a list of one, and lists and mappings as JSON
text or as `NAME=VALUE` words. Only what can be read in one way and loses nothing is taken: what is not comes back
as it came, for the check to refuse. A text stays the text that it is, and nothing becomes one.
"""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Mapping
from typing import Any, Union, get_args, get_origin, get_type_hints, is_typeddict

MAX_CHARS = 16 * 1024 * 1024
_BOOLEANS = {"true": True, "false": False}


def coerce(value: Any, kind: Any) -> Any:
    """`value` as a `kind`, or as it is."""
    members = members_of(kind)
    for member in members:
        if _is(value, member):
            return _inside(value, member)
    if isinstance(value, str) and value.lstrip().startswith("{"):
        members = tuple(sorted(members, key=lambda member: _bare(member) is not dict))
    for member in members:
        made = _made(value, member)
        if made is not value:
            return _inside(made, member)
    return value


def members_of(kind: Any) -> tuple[Any, ...]:
    """The types that a `kind` may be: several of a union, itself of any other."""
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _is(value: Any, kind: Any) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, _bare(kind)) if isinstance(_bare(kind), type) else False


def _bare(kind: Any) -> Any:
    return dict if is_typeddict(kind) else get_origin(kind) or kind


def _made(value: Any, kind: Any) -> Any:
    if _bare(kind) is list:
        return _list(value, *get_args(kind))
    make = _MAKERS.get(_bare(kind))
    return make(value) if make else value


def _inside(value: Any, kind: Any) -> Any:
    """`value`, a list or a mapping of `kind`, with its parts coerced."""
    if is_typeddict(kind):
        parts = get_type_hints(kind)
        return {name: coerce(part, parts[name]) if name in parts else part for name, part in value.items()}
    arguments = get_args(kind)
    if get_origin(kind) is list and arguments:
        return [coerce(part, arguments[0]) for part in value]
    return value


def _integer(value: Any) -> Any:
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, str) and value.isascii() and len(value) <= 20:
        digits = value.removeprefix("-")
        if digits.isdigit() and str(int(digits)) == digits:
            return int(value)
    return value


def _number(value: Any) -> Any:
    if not isinstance(value, str) or not 0 < len(value) <= 40 or not set(value) <= set("0123456789.-"):
        return value
    try:
        return float(value)
    except ValueError:
        return value


def _boolean(value: Any) -> Any:
    return _BOOLEANS.get(value.lower(), value) if isinstance(value, str) else value


def _list(value: Any, item: Any = str) -> Any:
    if isinstance(value, tuple):
        return list(value)
    read = _read(value, "[", list)
    if read is not value:
        return read
    one = coerce(value, item)
    return [one] if any(_is(one, member) for member in members_of(item)) else value


def _mapping(value: Any) -> Any:
    read = _read(value, "{", dict)
    if read is not value:
        return read
    words = _list(value) if isinstance(value, str) else value
    if not isinstance(words, list) or not words or not all(isinstance(word, str) and "=" in word for word in words):
        return value
    pairs = [word.split("=", 1) for word in words]
    names = {name for name, _ in pairs}
    return dict(pairs) if len(names) == len(pairs) and "" not in names else value


def _read(value: Any, begin: str, kind: type) -> Any:
    """The JSON that the text `value` is, if it is a `kind`, which `begin` begins."""
    if not isinstance(value, str) or len(value) > MAX_CHARS or not value.lstrip().startswith(begin):
        return value
    try:
        found = json.loads(value, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        return value
    return found if isinstance(found, kind) else value


def _unique(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands there twice")
    return found


_MAKERS: dict[Any, Callable[[Any], Any]] = {
    int: _integer,
    float: _number,
    bool: _boolean,
    dict: _mapping,
}
