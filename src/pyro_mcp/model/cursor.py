"""Cursor: a reader's place in the two streams of a command's output, `"OUT:ERR"` in bytes."""

from __future__ import annotations

import re

from pyro_mcp.errors import InvalidArgument

CURSOR = r"^[0-9]{1,15}:[0-9]{1,15}$"
CURSOR_RULE = "a cursor such as 120:0, as an earlier answer gave it"


def parse_cursor(cursor: str) -> tuple[int, int]:
    """The places in stdout and stderr. Raises `InvalidArgument`."""
    if not re.fullmatch(CURSOR, cursor):
        raise InvalidArgument(f"cannot read from {cursor[:40]!r}: it is not {CURSOR_RULE}", hint="Leave `cursor` out")
    out, err = cursor.split(":")
    return int(out), int(err)
