"""Doctor, for a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyro_mcp.model.doctor import DoctorReport
from pyro_mcp.surfaces.cli.escapes import plain
from pyro_mcp.surfaces.cli.render.common import fields

if TYPE_CHECKING:
    from rich.console import Console

_MARKS = {"ok": ("ok", "green"), "warning": ("warn", "yellow"), "missing": ("MISSING", "red")}


def draw_report(console: Console, report: DoctorReport) -> None:
    """Each check with its remedy, the versions in use, and the verdict last."""
    for check in report.checks:
        mark, style = _MARKS[check.status]
        console.print(f"{mark:<8}", style=style, end="")
        console.print(f"{check.name}: {plain(check.detail)}", soft_wrap=True)
        if check.remedy and check.status != "ok":
            console.print(f"        do: {plain(check.remedy)}", soft_wrap=True)
    console.print()
    fields(console, [*report.versions.items(), *report.paths.items()])
    console.print()
    verdict = f"ready: guests run here, isolation {report.isolation}" if report.ready else "not ready: see above"
    console.print(f"{report.platform}: {verdict}", soft_wrap=True)
