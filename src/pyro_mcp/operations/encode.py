"""Encode: the one way a result becomes JSON and comes back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from pyro_mcp.errors import ProtocolError

T = TypeVar("T")


def encode(result: Any) -> dict[str, Any]:
    """A result dataclass as JSON values: dates become RFC 3339 text, tuples lists."""
    value: dict[str, Any] = msgspec.to_builtins(result)
    return value


def decode(payload: Mapping[str, Any], kind: type[T]) -> T:
    """The result of type `kind` in `payload`. Raises `ProtocolError` when it does not fit."""
    try:
        return msgspec.convert(payload, kind)
    except msgspec.ValidationError as error:
        raise ProtocolError(
            f"cannot read the node's answer as {kind.__name__}: {error}",
            hint="Client and node are of different versions: run `pyro node stop` and try again.",
        ) from None


def schema(kind: Any) -> dict[str, Any]:
    """The JSON schema of `kind`, self-contained and without titles."""
    document, components = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    root: dict[str, Any] = _inline(document[0], components)
    return root


def _inline(node: Any, components: Mapping[str, Any]) -> Any:
    """`node` with every reference replaced by what it refers to; results are trees, so this ends."""
    if isinstance(node, list):
        return [_inline(item, components) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return _inline(components[node["$ref"].rpartition("/")[2]], components)
    kept = {key: value for key, value in node.items() if key != "title" or not isinstance(value, str)}
    return {key: _inline(value, components) for key, value in kept.items()}
