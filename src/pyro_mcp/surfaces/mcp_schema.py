"""Mcp schema: a tool's parameters and its answer in the part of JSON schema that every model API takes.

Hosts pass input schemas on as they stand, and one that an API refuses takes all tools of the server with it. So each
parameter has one plain type: of a union the first member, of a mapping a list of `NAME=VALUE`. What else a parameter
takes is taken all the same when it comes (`operations.coerce`, `operations.validate`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints, is_typeddict

from pyro_mcp.operations.coerce import members_of
from pyro_mcp.operations.encode import schema
from pyro_mcp.operations.fields import Field
from pyro_mcp.operations.operation import Operation
from pyro_mcp.operations.wording import Wording
from pyro_mcp.surfaces.mcp_short import told

_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean"}


def input_schema(fields: tuple[Field, ...], wording: Wording) -> dict[str, Any]:
    """The schema of a tool's arguments. Limits and defaults stand in the descriptions alone: a model pays for every
    word of it, some hosts strip the rest, and the call checks them all, also that there is no other argument."""
    properties = {field.name: {"description": wording.text(_described(field)), **shape(field.type)} for field in fields}
    required = [field.name for field in fields if field.required]
    return {"type": "object", "properties": properties, **({"required": required} if required else {})}


def output_schema(operation: Operation[Any, Any]) -> dict[str, Any]:
    """The schema of a tool's answer: every field that it may hold and its type, none required. What is inside of
    objects and the words that a field takes are left out, because hosts hold all tools' schemas at once, and every
    answer shows its shape."""
    kinds = schema(operation.result_type)["properties"]
    return {"type": "object", "properties": {name: _type(kinds[name]) for name in told(operation)}}


def shape(kind: Any) -> dict[str, Any]:
    """The one form in which a model is asked for a `kind`."""
    kind = members_of(kind)[0]
    origin = get_origin(kind)
    if origin is Literal:
        return {"type": "string", "enum": list(get_args(kind))}
    if origin is list:
        return {"type": "array", "items": shape(get_args(kind)[0])}
    if origin is dict:
        return {"type": "array", "items": {"type": "string"}}
    if is_typeddict(kind):
        required = [name for name in kind.__annotations__ if name in kind.__required_keys__]
        parts = {name: shape(part) for name, part in get_type_hints(kind).items()}
        return {"type": "object", "properties": parts, **({"required": required} if required else {})}
    return {"type": _PLAIN[kind]}


def _described(field: Field) -> str:
    pairs = get_origin(members_of(field.type)[0]) is dict
    return f"{field.description}; each as {field.param.metavar or 'NAME=VALUE'}" if pairs else field.description


def _type(part: Mapping[str, Any]) -> dict[str, Any]:
    """The bare type of `part`. What is null is left out of an answer."""
    members = [member.get("type", "string") for member in part.get("anyOf", ())]
    return {"type": next((kind for kind in members if kind != "null"), part.get("type", "string"))}
