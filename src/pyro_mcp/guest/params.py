"""Checked reading of request parameters: every value a verb uses has a known type and a bounded size."""

from __future__ import annotations

import os
from typing import Any

from pyro_mcp.guest.errors import invalid

MAX_ITEMS = 16384
MAX_STRING = 131_071
"""Linux refuses a longer single argument or environment entry (MAX_ARG_STRLEN, less the final NUL)."""


def to_bytes(name: str, value: Any, *, limit: int = MAX_STRING) -> bytes:
    """`value` as the bytes a system call takes; lone surrogates stand for undecodable bytes, as Python does it."""
    if not isinstance(value, str):
        raise invalid(f"{name} must be text, not {type(value).__name__}")
    try:
        raw = value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise invalid(f"{name} is not valid text") from None
    if b"\0" in raw:
        raise invalid(f"{name} contains a NUL character")
    if len(raw) > limit:
        raise invalid(f"{name} takes {len(raw)} bytes; at most {limit} fit")
    return raw


def words(params: dict[str, Any], name: str) -> list[bytes]:
    """A list of texts with at least one entry, the first of which is not empty."""
    value = params.get(name)
    if not isinstance(value, list) or not value or len(value) > MAX_ITEMS:
        raise invalid(f"{name} must be a list of 1 to {MAX_ITEMS} texts")
    result = [to_bytes(f"{name}[{index}]", item) for index, item in enumerate(value)]
    if not result[0]:
        raise invalid(f"{name}[0] is empty", "Name a program to run.")
    return result


def variables(params: dict[str, Any], name: str) -> dict[bytes, bytes]:
    """A mapping of environment variable names to values; absent means empty."""
    value = params.get(name) or {}
    if not isinstance(value, dict) or len(value) > MAX_ITEMS:
        raise invalid(f"{name} must be an object of at most {MAX_ITEMS} texts")
    result = {}
    for key, item in value.items():
        raw = to_bytes(f"{name}: a name", key)
        if not raw or b"=" in raw:
            raise invalid(f"{name}: {key[:64]!r} is not a variable name", "Use letters, digits and underscores.")
        result[raw] = to_bytes(f"{name}[{key[:64]!r}]", item, limit=MAX_STRING - len(raw) - 1)
    return result


def directory(params: dict[str, Any], name: str, home: bytes) -> bytes:
    """An absolute path: what is relative is seen from `home`, which it is when absent."""
    value = params.get(name)
    return home if value is None else os.path.normpath(os.path.join(home, to_bytes(name, value, limit=4095)))


def seconds(params: dict[str, Any], name: str, *, max_: float = 30 * 86400.0) -> float | None:
    """A positive duration of at most `max_` seconds, or None when absent."""
    value = params.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= max_:
        raise invalid(f"{name} must be a number above 0 and at most {max_:g}")
    return float(value)


def flag(params: dict[str, Any], name: str) -> bool:
    """True or False; absent means False."""
    value = params.get(name, False)
    if not isinstance(value, bool):
        raise invalid(f"{name} must be true or false")
    return value


def optional_object(params: dict[str, Any], name: str) -> dict[str, Any] | None:
    """An object, or None when absent."""
    value = params.get(name)
    if value is not None and not isinstance(value, dict):
        raise invalid(f"{name} must be an object")
    return value


def text(params: dict[str, Any], name: str, *, limit: int = 4096) -> str:
    """A required text without control characters."""
    value = params.get(name)
    if not isinstance(value, str) or not value or len(value) > limit or not value.isprintable():
        raise invalid(f"{name} must be printable text of 1 to {limit} characters")
    return value


def integer(params: dict[str, Any], name: str, *, min_: int, max_: int) -> int:
    """A required whole number in a range."""
    value = params.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not min_ <= value <= max_:
        raise invalid(f"{name} must be a whole number from {min_} to {max_}")
    return value
