"""Environments, for a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyro_mcp.model.environment import Environment, PruneResult
from pyro_mcp.model.environment_list import EnvironmentList
from pyro_mcp.surfaces.cli.escapes import plain
from pyro_mcp.surfaces.cli.render.common import fields, put, size, table

if TYPE_CHECKING:
    from rich.console import Console


_DONE = ("removed", "kept", "freed")


def draw_list(console: Console, result: EnvironmentList) -> None:
    """One line per environment."""
    rows = table("NAME", "INSTALLED", "SIZE", "DESCRIPTION", folds=("DESCRIPTION",))
    for one in result:
        rows.add_row(one.name, "yes" if one.installed else "no", size(one.size_bytes) or "-", plain(one.description))
    put(console, rows)


def draw_pulled(console: Console, result: Environment) -> None:
    """That it is there now."""
    console.print(f"{result.name} is installed: {size(result.size_bytes)} in {result.install_dir}", soft_wrap=True)


def draw_one(console: Console, result: Environment) -> None:
    """Everything there is to know about one environment."""
    fields(
        console,
        (
            ("name", result.name),
            ("description", result.description),
            ("distribution", f"{result.distribution} {result.distribution_version}"),
            ("platform", result.platform),
            ("version", result.version),
            ("catalogue", result.catalog_version),
            ("packages", ", ".join(result.default_packages)),
            ("installed", f"yes, {size(result.size_bytes)}" if result.installed else "no"),
            ("installed at", result.installed_at or ""),
            ("digest", result.digest or ""),
            ("directory", result.install_dir or ""),
            ("source", ", ".join(result.source)),
            ("cache", result.cache_dir),
        ),
    )


def draw_pruned(console: Console, result: PruneResult) -> None:
    """What went, and what had to stay."""
    removed, kept, freed = ("would remove", "would keep", "would be freed") if result.dry_run else _DONE
    for name in result.removed:
        console.print(f"{removed} {plain(name)}")
    for name in result.kept:
        console.print(f"{kept} {plain(name)}: a machine uses it")
    for name in result.unused:
        console.print(f"{kept} {plain(name)}: it is current; --all removes it")
    console.print(f"{size(result.freed_bytes)} {freed}" if result.deleted else "nothing to remove")
