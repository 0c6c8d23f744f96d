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
