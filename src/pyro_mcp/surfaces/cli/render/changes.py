"""Patch, diff, sync and export, for a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyro_mcp.model.count import count_of
from pyro_mcp.model.diff import DiffResult
from pyro_mcp.model.export import ExportResult
from pyro_mcp.model.patch import PatchResult
from pyro_mcp.model.sync import Skipped, SyncResult
from pyro_mcp.surfaces.cli.escapes import plain
from pyro_mcp.surfaces.cli.output import Output
from pyro_mcp.surfaces.cli.render.common import size

if TYPE_CHECKING:
    from rich.console import Console

_LETTERS = {"added": "A", "modified": "M", "deleted": "D", "type_changed": "T"}


def draw_patched(console: Console, result: PatchResult) -> None:
    """What has changed, as `git status` letters."""
    if not result.changed:
        console.print("nothing to change: everything is so already")
    for entry in result.entries:
        console.print(f"{_LETTERS[entry.status]} {plain(entry.path)}", soft_wrap=True)


def after_diff(result: DiffResult, output: Output) -> None:
    """The patch on stdout, for `git apply`; on stderr what it leaves out."""
    output.live(1, result.patch.encode("utf-8", "surrogateescape"))
    output.finish()
    for entry in result.entries:
        if entry.text_patch is None:
            output.notice(f"{_LETTERS[entry.status]} {plain(entry.path)}: {entry.reason}, not in the patch")
    if result.truncated:
        output.notice("there are more changes than one answer holds")
    if not result.changed:
        output.notice("nothing has changed")


def draw_pushed(console: Console, result: SyncResult) -> None:
    """What arrived, and what did not."""
    done = result.workspace_sync
    what = f"{count_of(done.entry_count, 'entry', 'entries')}, {size(done.bytes_written)}"
    console.print(f"{plain(done.source_path)} is in {plain(done.destination)}: {what}", soft_wrap=True)
    draw_skipped(console, done.skipped, done.skipped_count)


def draw_exported(console: Console, result: ExportResult) -> None:
    """What left, what did not, and what to look at first."""
    what = f"{count_of(result.entry_count, 'entry', 'entries')}, {size(result.bytes_written)}"
    console.print(f"{plain(result.workspace_path)} is in {plain(result.output_path)}: {what}", soft_wrap=True)
    draw_skipped(console, result.skipped, result.skipped_count)
    for path in result.masked:
        console.print(f"a secret in it is overwritten: {plain(path)}", soft_wrap=True)
    if result.masked_count > len(result.masked):
        console.print(f"and in {result.masked_count - len(result.masked)} more")
    if result.can_run:
        console.print("look at these before you work there, programs of this host may run them:")
    for path in result.can_run:
        console.print(f"  {plain(path)}", soft_wrap=True)


def draw_skipped(console: Console, skipped: list[Skipped], count: int, *, most: int | None = None) -> None:
    """What was left out, as far as it is named, or the first `most` of it."""
    for one in skipped[:most]:
        console.print(f"left out or altered: {plain(one.path)}: {plain(one.reason)}", soft_wrap=True)
    rest = count - len(skipped[:most])
    if rest > 0:
        named = " (--json names them)" if most is not None and len(skipped) > most else ""
        console.print(f"and {rest} more{named}")
