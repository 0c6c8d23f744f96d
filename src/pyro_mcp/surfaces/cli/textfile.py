"""Textfile: a parameter's value from a file or from standard input."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from pyro_mcp.errors import InvalidArgument

MAX_BYTES = 16 * 1024 * 1024


def read_text(path: str) -> str:
    """The whole of the file `path`, `-` being standard input, as it stands: line ends are kept.

    Raises `InvalidArgument` for a file that cannot be read, is no UTF-8 text, or too large.
    """
    shown = "standard input" if path == "-" else path
    try:
        if path == "-":
            data = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with open(path, "rb") as file:
                data = file.read(MAX_BYTES + 1)
    except OSError as error:
        cause = os.strerror(error.errno) if error.errno else str(error)
        raise InvalidArgument(f"cannot read {shown}: {cause}") from None
    if len(data) > MAX_BYTES:
        raise InvalidArgument(f"cannot read {shown}: it is larger than {MAX_BYTES} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        hint = "Bring binary files in with `pyro workspace sync push`"
        raise InvalidArgument(f"cannot read {shown}: it is not UTF-8 text", hint=hint) from None


def read_json(path: str) -> Any:
    """The JSON value in the file `path`, as `read_text` reads it. Raises `InvalidArgument`."""
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        shown = "standard input" if path == "-" else path
        raise InvalidArgument(f"cannot read {shown}: it is not JSON: {error}") from None
