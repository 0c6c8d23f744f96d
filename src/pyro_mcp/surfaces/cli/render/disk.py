"""A stopped workspace's disk, for a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyro_mcp.model.count import count_of
from pyro_mcp.model.disk import DiskExport
from pyro_mcp.surfaces.cli.escapes import plain
from pyro_mcp.surfaces.cli.render.common import size

if TYPE_CHECKING:
    from rich.console import Console


def draw_exported(console: Console, result: DiskExport) -> None:
    """Where it is, and what not to do with it."""
    sizes = f"{size(result.size_bytes)}, {size(result.bytes_written)} of it data"
    console.print(f"{plain(result.output_path)}: a raw {result.disk_format} image, {sizes}", soft_wrap=True)
    if result.masked_count:
        console.print(f"secrets in it are overwritten in {count_of(result.masked_count, 'place')}")
    console.print("a guest has written it: read it with debugfs, do not mount it", soft_wrap=True)
