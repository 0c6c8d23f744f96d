"""Tomlfile: a table of servers in TOML. `tomllib` says what a file means, `tomlkit` changes it and keeps its form.

To `tomlkit`, the comments and blank lines before the next header belong to the table above and go with it, so a table
is removed by its lines.
"""

from __future__ import annotations

import io
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from pyro_mcp.errors import Unsupported
from pyro_mcp.hosts.formats import Format, same


class TomlFormat(Format):
    """TOML: `[keys.NAME]`."""

    def load(self, text: str) -> dict[str, Any]:
        return tomllib.loads(text)

    def edit(self, text: str, name: str, entry: Mapping[str, Any] | None) -> str:
        import tomlkit
        from tomlkit.exceptions import TOMLKitError

        if entry is None:
            left = _cut(text, (*self.keys, name))
            if _whole(left) and name not in self.entries(left):
                return left
        try:
            document = tomlkit.parse(text)
            table: Any = document
            for key in self.keys:
                if key not in table:
                    table[key] = tomlkit.table(is_super_table=True)
                table = table[key]
            if entry is None:
                del table[name]
            elif isinstance(table.get(name), dict):
                _update(table[name], entry)
            else:
                inline = isinstance(table, tomlkit.items.InlineTable)
                table[name] = _new(tomlkit.inline_table() if inline else tomlkit.table(), entry)
            return tomlkit.dumps(document)
        except (TOMLKitError, TypeError, AttributeError) as error:
            raise Unsupported(
                f"cannot change the {'.'.join(self.keys)} of this file: {error}", hint="Change it by hand."
            ) from error


def _cut(text: str, path: tuple[str, ...]) -> str:
    """`text` without the lines of the tables at and below `path`. What stands before the next header stays."""
    kept: list[str] = []
    own: list[str] = []
    lines = list(io.StringIO(text, newline="\n"))
    ours = False
    for at, line in enumerate(lines):
        header = _header(line)
        # What looks like a header may stand in a string or a list of several lines.
        if (ours and header) or header[: len(path)] == path:
            ours = header[: len(path)] == path if _whole("".join(lines[:at])) else ours
        if own and not ours:
            kept += _beside(own, kept)
            own = []
        (own if ours else kept).append(line)
    return "".join([*kept, *_beside(own, kept)])


def _header(line: str) -> tuple[str, ...]:
    """The table that `line` begins, if it is a header."""
    path: list[str] = []
    if line.lstrip().startswith("[") and _whole(line):
        table: Any = tomllib.loads(line)
        while isinstance(table, dict) and table:
            (key,) = table
            path.append(key)
            table = table[key]
    return tuple(path)


def _whole(text: str) -> bool:
    try:
        tomllib.loads(text)
    except ValueError:
        return False
    return True


def _beside(own: Sequence[str], before: Sequence[str]) -> Sequence[str]:
    """The comments and blank lines after a table; of the blank lines around it, one was its own."""
    end = len(own)
    while end and (not own[end - 1].strip() or own[end - 1].lstrip().startswith("#")):
        end -= 1
    rest = own[end:]
    parted = not before or not before[-1].strip()
    return rest[1:] if parted and rest and not rest[0].strip() else rest


def _update(table: Any, entry: Mapping[str, Any]) -> None:
    for key in [key for key in table if key not in entry]:
        del table[key]
    for key, value in entry.items():
        if key not in table or not same(_plain(table[key]), value):
            table[key] = value


def _new(table: Any, entry: Mapping[str, Any]) -> Any:
    for key, value in entry.items():
        table[key] = value
    return table


def _plain(value: Any) -> Any:
    return value.unwrap() if hasattr(value, "unwrap") else value
