"""Inputs: what a caller may give a command to read, and how it becomes the bytes that travel.

What can be known is refused before the command starts; what an iterable does later ends the command, and is raised.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Any, cast

from pyro_mcp.errors import InvalidArgument

Input = bytes | str | Iterable[bytes]
"""Bytes, a text that travels as UTF-8, or an iterable of bytes, such as a file opened with mode "rb"."""
RULE = 'Give bytes, a text, or an iterable of bytes, such as a file opened with mode "rb"'


def as_bytes(name: str, value: object) -> bytes | Iterable[bytes]:
    """The parameter `name` as bytes, or as pieces of them. Raises `InvalidArgument`, as the iteration may too."""
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError as error:
            raise InvalidArgument(f"cannot use {name}: it is no UTF-8 text: {error.reason}", hint=RULE) from None
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, io.TextIOBase):
        raise InvalidArgument(f"cannot use {name}: the file is open as text", hint=RULE)
    if not isinstance(value, Iterable):
        raise InvalidArgument(f"cannot use {name}: it is of type {type(value).__name__}", hint=RULE)
    pieces = _checked(name, value)
    return list(pieces) if isinstance(value, list | tuple) else pieces


def narrowed(stdin: Input | None) -> bytes | Iterable[bytes] | None:
    """The same value, for the type checker: in the node an input is what has travelled, and no text any more."""
    return cast("bytes | Iterable[bytes] | None", stdin)


def _checked(name: str, pieces: Iterable[Any]) -> Iterator[bytes]:
    for number, piece in enumerate(pieces, 1):
        if not isinstance(piece, bytes | bytearray | memoryview):
            what = f"piece {number} of it is of type {type(piece).__name__}"
            raise InvalidArgument(f"cannot use {name}: {what}", hint=RULE)
        yield bytes(piece)
