"""Chat hosts, for a person."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from pyro_mcp.model.host import HostApprovals, HostChange, HostChanges, HostReport, HostReports
from pyro_mcp.surfaces.cli.escapes import plain
from pyro_mcp.surfaces.cli.render.common import fields

if TYPE_CHECKING:
    from rich.console import Console

_DONE = {
    "added": "is added to",
    "updated": "is changed in",
    "unchanged": "is as it should be in",
    "removed": "is removed from",
    "absent": "is not in",
}
_WOULD = {"added": "would be added to", "updated": "would be changed in", "removed": "would be removed from"}
_STYLES = {"ok": "green", "slow": "yellow", "not-installed": "dim", "not-connected": "dim"}


def draw_changes(console: Console, result: HostChanges) -> None:
    """What changed where, as a diff, and what to know about it."""
    for change in result.changes:
        _draw_change(console, change)
    for note in dict.fromkeys([*(note for change in result.changes for note in change.notes), *result.notes]):
        console.print(f"note: {plain(note)}", soft_wrap=True)


def _draw_change(console: Console, change: HostChange) -> None:
    for line in change.diff.splitlines():
        console.print(plain(line), style={"+": "green", "-": "red"}.get(line[:1], ""), soft_wrap=True)
    verb = (_WOULD if change.dry_run else _DONE).get(change.action, _DONE[change.action])
    scope = f", scope {change.scope}" if change.scope else ""
    console.print(f"{change.host}: the entry {change.name} {verb} {plain(change.path)}{scope}", soft_wrap=True)


def draw_reports(console: Console, result: HostReports) -> None:
    """Each host with its findings."""
    for at, report in enumerate(result.hosts):
        if at:
            console.print()
        _draw_report(console, report)


def _draw_report(console: Console, report: HostReport) -> None:
    console.print(f"{report.host}: ", end="")
    console.print(report.status, style=_STYLES.get(report.status, "red"))
    pairs = [("version", report.version), ("entry", report.path), ("scope", report.scope)]
    pairs.append(("starts", shlex.join(report.command)))
    if report.ready_seconds is not None:
        times = f"initialize {report.initialize_seconds:.2f} s, tools/list {report.ready_seconds:.2f} s"
        pairs.append(("answers", f"{times}, {report.tool_count} tools; gone {report.exit_seconds:.2f} s after EOF"))
    pairs += [("note", note) for note in report.notes]
    fields(console, [(f"  {name}", value or "") for name, value in pairs])
    for problem in report.problems:
        named = "" if problem.status == report.status else f"{problem.status}: "
        console.print(f"  {named}{plain(problem.detail)}", soft_wrap=True)
        if problem.remedy:
            console.print(f"    do: {plain(problem.remedy)}", soft_wrap=True)
    if report.approvals:
        _draw_approvals(console, report.approvals)


def _draw_approvals(console: Console, approvals: HostApprovals) -> None:
    pairs = [("  unasked", ", ".join(approvals.unasked) or "none"), ("  asks for", ", ".join(approvals.asks) or "none")]
    fields(console, [*pairs, ("  to change", approvals.how)])
