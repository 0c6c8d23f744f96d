"""Tomlfile: a table of servers in TOML. `tomllib` says what a file means, `tomlkit` changes it and keeps its form."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
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
