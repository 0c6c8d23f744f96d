"""Pieces that several renderers share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pyro_mcp.surfaces.cli.escapes import plain
from pyro_mcp.surfaces.cli.output import UNFOLDED

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def table(*columns: str, folds: tuple[str, ...] = ()) -> Table:
    """An open table that a pipe can be cut from. A narrow terminal folds the columns in `folds`; the others hold what a
    person may copy, such as an id, and stay on one line."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    made = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold", no_wrap=column not in folds)
    return made


def put(console: Console, rows: Table) -> None:
    """Print `rows`; where the terminal is too narrow for what does not fold, it breaks the lines and loses nothing."""
    from rich.measure import Measurement

    room = console.options.update(max_width=max(console.width, UNFOLDED))
    console.width = max(console.width, Measurement.get(console, room, rows).minimum)
    console.print(rows)


def fields(console: Console, pairs: Iterable[tuple[str, str]]) -> None:
    """Names and values, one pair a line; empty values are left out."""
    shown = [(name, value) for name, value in pairs if value]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        console.print(f"{name:<{width}}  {plain(value)}", soft_wrap=True)


def size(count: int | None) -> str:
    """Bytes as a person says them, such as `134 MiB`."""
    if count is None:
        return ""
    value, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{value:.0f} {units[0]}"
