"""Counts in words, for whoever reads them: `1 entry`, `2 entries`."""

from __future__ import annotations


def count_of(count: int, one: str, many: str | None = None, *, grouped: bool = False) -> str:
    """How many of a thing there are. `many` is its plural, unless that only takes an s; `grouped` digits suit a count
    that becomes long while somebody watches."""
    digits = f"{count:,}" if grouped else str(count)
    return f"{digits} {one if count == 1 else many or one + 's'}"
