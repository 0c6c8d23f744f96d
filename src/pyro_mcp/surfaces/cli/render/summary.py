"""The summary, for a person: one page, what went wrong first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pyro_mcp.model.count import count_of
from pyro_mcp.model.summary import (
    SummaryChanges,
    SummaryCommands,
    SummaryEdits,
    SummaryServices,
    SummaryShells,
    SummaryTransfers,
    WorkspaceSummary,
)
from pyro_mcp.model.workspace import WorkspaceSeed
from pyro_mcp.model.workspace_exec import CommandEntry
from pyro_mcp.surfaces.cli.escapes import plain
from pyro_mcp.surfaces.cli.render.common import size
from pyro_mcp.surfaces.cli.render.network import summed
from pyro_mcp.surfaces.cli.render.service import ports
from pyro_mcp.surfaces.cli.render.workspace import described, when

if TYPE_CHECKING:
    from rich.console import Console

PATHS, SKIPPED, WIDTH = 8, 4, 100
_SIGNS = {"added": "A", "modified": "M", "deleted": "D", "type_changed": "T"}


def draw_summary(console: Console, result: WorkspaceSummary) -> None:
    """What it is, what ran, what changed, what came and went."""
    name = f" ({plain(result.name)})" if result.name else ""
    began = f"reset {when(result.since)}" if result.reset_count else f"created {when(result.since)}"
    console.print(f"{result.workspace_id}{name}: {result.state}, {plain(result.environment)}, {began}", soft_wrap=True)
    for line in _page(result):
        console.print(line, soft_wrap=True)


def _page(result: WorkspaceSummary) -> Iterator[str]:
    yield from _seed(result.workspace_seed)
    yield from _commands(result.commands)
    if result.changes is None:
        yield f"changes    unknown: {plain(result.changes_unknown or '')}"
    else:
        yield from _changes(result.changes)
    yield from _edits("edited", result.file_edits)
    yield from _edits("patched", result.patches)
    yield from _transfers("imported", "from", result.syncs)
    yield from _transfers("exported", "to", result.exports)
    yield from summed(result.network)
    yield from _services(result.services)
    yield from _shells(result.shells)
    yield from _still(result)
    if result.snapshots:
        yield "snapshots  " + ", ".join(plain(one.snapshot_name) for one in result.snapshots)
    if result.stops or result.starts:
        yield f"life       stopped {count_of(result.stops, 'time')}, started again {count_of(result.starts, 'time')}"


def _seed(seed: WorkspaceSeed) -> Iterator[str]:
    if seed.seed_path:
        left_out = f"; {seed.skipped_count} left out or altered" if seed.skipped_count else ""
        yield f"seed       {plain(seed.seed_path)}: {described(seed)}{left_out}"
    for one in seed.skipped[:SKIPPED]:
        yield f"           {plain(one.path)}: {plain(one.reason)}"
    if seed.skipped_count > SKIPPED:
        yield f"           and {seed.skipped_count - SKIPPED} more"


def _commands(commands: SummaryCommands) -> Iterator[str]:
    named = ("failed", commands.failed), ("succeeded", commands.succeeded), ("ended", commands.ended)
    unusual = ("running", commands.running), ("not started", commands.not_started)
    counts = [f"{count} {name}" for name, count in (*named, *unusual) if count]
    yield "commands   " + (", ".join(counts) if counts else "none")
    for entry in commands.failures:
        yield f"  FAILED   {_line(entry)}"
        for line in entry.output_tail.splitlines():
            yield f"           | {plain(line)[:WIDTH]}"
    reported = {entry.sequence for entry in commands.failures}
    for other in commands.recent:
        if other.sequence not in reported:
            yield f"           {_line(other)}"


def _line(entry: CommandEntry) -> str:
    state = f"exit {entry.exit_code}" if entry.state == "finished" else entry.state.replace("_", " ")
    how = "timed out" if entry.timed_out else state
    first = plain(entry.command.splitlines()[0] if entry.command else "")[:WIDTH]
    return f"[{entry.sequence}] {first}  ({how}, {entry.duration_ms / 1000:.1f} s)"


def _changes(changes: SummaryChanges) -> Iterator[str]:
    totals = changes.totals
    if not totals.total:
        yield "changes    none against the baseline"
        return
    kinds = ("added", totals.added), ("modified", totals.modified), ("deleted", totals.deleted)
    counts = [f"{count} {name}" for name, count in (*kinds, ("of another type", totals.type_changed)) if count]
    yield f"changes    {', '.join(counts)}; lines +{changes.added_lines} -{changes.deleted_lines}"
    for entry in changes.entries[:PATHS]:
        yield f"         {_SIGNS[entry.status]} {plain(entry.path)}"
    if totals.total > PATHS:
        yield f"           and {totals.total - PATHS} more{' at least' if changes.truncated else ''}"


def _services(services: SummaryServices) -> Iterator[str]:
    counts = [f"{len(services.now)} running"] if services.now else []
    counts += [f"{services.failed} failed"] if services.failed else []
    done = services.before_count - services.failed
    counts += [f"{done} ended or stopped"] if done else []
    if counts:
        yield "services   " + ", ".join(counts)
    for one in (*services.now, *services.before):
        where = f", {ports(one)}" if one.published_ports else ""
        why = f": {plain(one.stop_reason)}" if one.stop_reason else ""
        mark = "FAILED  " if one.state == "failed" else "        "
        yield f"  {mark} {one.service_name}  ({one.state}{why}{where})  {plain(one.command)[:WIDTH]}"


def _shells(shells: SummaryShells) -> Iterator[str]:
    if shells.opened:
        yield f"shells     {shells.opened} opened, {len(shells.now)} running"
    for one in shells.now:
        yield f"           {one.shell_id}  since {when(one.started_at)}, in {plain(one.cwd)}"


def _still(result: WorkspaceSummary) -> Iterator[str]:
    """What goes on by itself."""
    kinds = (
        ("command", result.commands.running),
        ("service", len(result.services.now)),
        ("shell", len(result.shells.now)),
    )
    counts = [count_of(count, word) for word, count in kinds if count]
    if counts:
        yield "still running: " + ", ".join(counts)


def _edits(word: str, edits: SummaryEdits) -> Iterator[str]:
    if edits.count:
        more = ", ..." if len(edits.paths) > PATHS else ""
        paths = ", ".join(plain(path) for path in edits.paths[:PATHS])
        yield f"{word:<10} {count_of(edits.count, 'time')}: {paths}{more}"


def _transfers(word: str, way: str, transfers: SummaryTransfers) -> Iterator[str]:
    for one in transfers.entries:
        count = f"{count_of(one.entry_count, 'entry', 'entries')}, {size(one.bytes_written)}"
        yield f"{word:<10} {plain(one.path)} {way} {plain(one.host_path)}: {count}"
    if transfers.count > len(transfers.entries):
        yield f"{word:<10} and {transfers.count - len(transfers.entries)} more before"
