"""Formats: how a host's file holds its table of servers, and how one entry of it is changed.

A change touches the entry's own lines and nothing else. It is checked: the new text must parse to what the old one
said, but for that entry; what an editor cannot do so is left to the person.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from pyro_mcp.errors import Unsupported


class Format(ABC):
    """A table of servers below `keys`, in some language."""

    def __init__(self, *keys: str) -> None:
        self.keys = keys

    @abstractmethod
    def load(self, text: str) -> dict[str, Any]:
        """The document in `text`. Raises `ValueError` saying where it is wrong."""

    @abstractmethod
    def edit(self, text: str, name: str, entry: Mapping[str, Any] | None) -> str:
        """`text` with the entry `name` equal to `entry`, or without it."""

    def entries(self, text: str) -> Mapping[str, Any]:
        """All entries. Raises `ValueError`."""
        return self._table(self.load(text))

    def show(self, name: str, entry: Mapping[str, Any]) -> str:
        """A whole file that holds nothing but this entry."""
        return self.edit("", name, entry)

    def put(self, text: str, name: str, entry: Mapping[str, Any]) -> str:
        """`text` with the entry `name`. Raises `Unsupported` when the file's form does not allow it."""
        wanted = copy.deepcopy(self.load(text))
        self._table(wanted, make=True)[name] = dict(entry)
        return self._proven(self.edit(text, name, entry), wanted, self.show(name, entry))

    def drop(self, text: str, name: str) -> str:
        """`text` without the entry `name`. Raises `Unsupported` when the file's form does not allow it."""
        wanted = copy.deepcopy(self.load(text))
        self._table(wanted).pop(name)
        return self._proven(self.edit(text, name, None), wanted, f"the entry {name!r}")

    def _proven(self, text: str, wanted: dict[str, Any], lines: str) -> str:
        try:
            proven = same(self._tidy(self.load(text)), self._tidy(wanted))
        except ValueError:
            proven = False
        if not proven:
            raise Unsupported(
                f"cannot change the {'.'.join(self.keys)} of this file: it is written in an unusual form",
                hint=f"Change it by hand; it was not touched. What is meant:\n{lines}",
            )
        return text

    def _tidy(self, document: dict[str, Any]) -> dict[str, Any]:
        """`document` without tables of servers that are empty: whether those are written says nothing."""
        if self._table(document):
            return document
        return {key: value for key, value in document.items() if key != self.keys[0]}

    def _table(self, document: dict[str, Any], *, make: bool = False) -> dict[str, Any]:
        table = document
        for depth, key in enumerate(self.keys):
            found = table.setdefault(key, {}) if make else table.get(key, {})
            if not isinstance(found, dict):
                raise ValueError(f"{'.'.join(self.keys[: depth + 1])} is no table of servers")
            table = found
        return table


def same(one: Any, other: Any) -> bool:
    """Whether two values say the same to every host: `1` is `1.0`, and neither is `true`."""
    if one is other:
        return True
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)
