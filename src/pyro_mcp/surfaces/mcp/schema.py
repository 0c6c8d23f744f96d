"""Schema: a tool's parameters in the part of JSON schema that every model API takes.

Hosts pass input schemas on as they stand, and one that an API refuses takes all tools of the server with it. So each
parameter has one plain type: of a union the first member, of a mapping a list of `NAME=VALUE`. What else a parameter
takes is taken all the same when it comes (`operations.coerce`, `operations.validate`).
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, get_args, get_origin, get_type_hints, is_typeddict

from pyro_mcp.operations.coerce import members_of
from pyro_mcp.operations.fields import Field
from pyro_mcp.operations.wording import Wording

_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean"}


def input_schema(fields: tuple[Field, ...], wording: Wording) -> dict[str, Any]:
    """The schema of a tool's arguments. Limits and defaults stand in the descriptions alone: a model pays for every
    word of it, some hosts strip the rest, and the call checks them all, also that there is no other argument."""
    properties = {field.name: {"description": wording.text(_described(field)), **shape(field.type)} for field in fields}
    required = [field.name for field in fields if field.required]
    return {"type": "object", "properties": properties, **({"required": required} if required else {})}


OUTPUT_SCHEMA: dict[str, Any] = {"type": "object"}
"""The schema of every tool's answer. It says that there is structured content, and no more: no host shows it to its
model, the reference lists the fields, and with types alone it would be a third of the listing."""


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
        # `__required_keys__` knows nothing of a NotRequired in an annotation that is still text.
        hints = get_type_hints(kind, include_extras=True)
        optional = {name for name, part in hints.items() if get_origin(part) is NotRequired}
        parts = {name: shape(part) for name, part in get_type_hints(kind).items()}
        required = [name for name in parts if kind.__total__ and name not in optional]
        return {"type": "object", "properties": parts, **({"required": required} if required else {})}
    return {"type": _PLAIN[kind]}


def _described(field: Field) -> str:
    pairs = get_origin(members_of(field.type)[0]) is dict
    return f"{field.description}; each as {field.param.metavar or 'NAME=VALUE'}" if pairs else field.description
