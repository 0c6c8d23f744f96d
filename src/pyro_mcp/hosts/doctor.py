"""Doctor: is a host there, does it start this pyro, and does what it would start answer in time and leave?

Of a project's file only what starts this very pyro is tried: anybody may have written the rest.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import get_args

from pyro_mcp.errors import InvalidArgument, PyroError
from pyro_mcp.hosts.connect import Wish, drift, standing
from pyro_mcp.hosts.contract import ChatHost, Entry, Found, Server, server_of
from pyro_mcp.hosts.launcher import remedy, risk_of
from pyro_mcp.hosts.probe import Probed, ProbeFailed, probe
from pyro_mcp.model.host import HostProblem, HostReport, HostReports, HostStatus
from pyro_mcp.system.process import find_program, run

VERSION_SECONDS = 60.0
_GRAVITY = get_args(HostStatus)
_HARMLESS = frozenset({"ok", "slow"})


def examine_all(hosts: list[ChatHost], wish: Wish) -> HostReports:
    """Several hosts: those that are not there or not connected are nobody's fault."""
    reports = [examine(host, wish) for host in hosts]
    fine = _HARMLESS | ({"not-installed", "not-connected"} if len(hosts) > 1 else frozenset())
    return HostReports(ok=all(report.status in fine for report in reports), hosts=reports)


def examine(host: ChatHost, wish: Wish) -> HostReport:
    """One host. Whatever is wrong with it is a finding, never an error."""
    report = HostReport(host=host.name, name=wish.name, status="ok")
    program = find_program(host.program)
    if program is None:
        way = f"install {host.title}, then `pyro host connect {host.name}`; with --dry-run it shows the entry now"
        detail = f"no program {host.program!r} on PATH"
        return _with(report, HostProblem(status="not-installed", detail=detail, remedy=way))
    try:
        found = standing(host, wish.name)
    except PyroError as error:
        return _with(report, HostProblem(status="unreadable-config", detail=error.message, remedy=error.hint))
    try:
        report = replace(report, version=_version(host, program))
    except PyroError as error:
        return _with(report, HostProblem(status="fails", detail=error.message, remedy=error.hint))
    if not found:
        connect = f"`pyro host connect {host.name}`"
        detail = f"{host.title} has no entry {wish.name!r}"
        return _with(report, HostProblem(status="not-connected", detail=detail, remedy=connect))
    if len(found) > 1:
        report = _with(report, _duplicate(host, found))
    hidden = host.hidden(found[-1].scope, wish.name)
    if hidden:
        report = _with(report, _hidden(host, found[-1], hidden))
    return _examine_entry(host, wish, found[-1], report)


def _examine_entry(host: ChatHost, wish: Wish, found: Found, report: HostReport) -> HostReport:
    server = server_of(found.entry)
    detail, mend = "differs from what `pyro host connect` writes", f"`pyro host repair {host.name}` shows and mends it"
    refused = False
    try:
        wanted = host.entry(wish.server(found.entry))
    except InvalidArgument as error:
        refused = True
        wanted, detail, mend = host.entry(wish.launcher.server(())), error.message, str(error.hint)
    keys = drift(host, found.entry, wanted) if isinstance(found.entry, dict) else ["command"]
    words = [server.command, *server.args] if server else []
    report = replace(report, scope=found.scope, path=str(found.file.path), command=words)
    if keys:
        detail = detail if refused else f"{detail}: {', '.join(keys)}"
        report = _with(report, HostProblem(status="drifted", detail=detail, remedy=mend, entry_keys=keys))
    if server is None:
        return _with(report, HostProblem(status="command-missing", detail="the entry starts no program"))
    reason = _untried(host, found, server, keys)
    if reason:
        return replace(report, notes=[*report.notes, reason])
    return _try(host, found.entry, server, report)


def _untried(host: ChatHost, found: Found, server: Server, keys: list[str]) -> str | None:
    if not server.starts_pyro:
        return f"not tried: the entry does not start pyro, but {server.command}"
    if found.scope == "project" and (keys or host.environ(found.entry)):
        return "not tried: a project's file may be anybody's, and its entry is not as pyro writes it"
    return None


def _try(host: ChatHost, entry: Entry, server: Server, report: HostReport) -> HostReport:
    command = shutil.which(server.command, path=host.where.environ.get("PATH"))
    if command is None:
        detail = f"there is no program {server.command}"
        mend = f"`pyro host repair {host.name}`"
        return _with(report, HostProblem(status="command-missing", detail=detail, remedy=mend))
    risk = risk_of(Path(server.command), host.where) if os.path.isabs(server.command) else None
    if risk:
        report = replace(report, notes=[*report.notes, f"{risk}. A lasting path: {remedy(server.command)}"])
    try:
        words = [server.command, *server.args]
        probed = probe(words, host.where.environ, host.environ(entry), host.where.cwd)
    except ProbeFailed as error:
        said = f"; it said: {error.tail}" if error.tail else ""
        return _with(report, HostProblem(status="fails", detail=f"{error.message}{said}"))
    return _timed(host, entry, probed, report)


def _timed(host: ChatHost, entry: Entry, probed: Probed, report: HostReport) -> HostReport:
    patience = host.patience(entry)
    if probed.ready_seconds > patience:
        detail = f"its tools were there after {probed.ready_seconds:.1f} s, and {host.title} waits {patience:g} s"
        report = _with(report, HostProblem(status="slow", detail=detail, remedy="A busy computer may be all there is."))
    return replace(
        report,
        initialize_seconds=round(probed.initialize_seconds, 3),
        ready_seconds=round(probed.ready_seconds, 3),
        exit_seconds=round(probed.exit_seconds, 3),
        tool_count=len(probed.tools),
        approvals=host.approvals(probed.tools, report.name, entry),
    )


def _duplicate(host: ChatHost, found: list[Found]) -> HostProblem:
    scopes = [one.scope for one in found]
    return HostProblem(
        status="duplicate-scope",
        detail=f"the entry stands at several scopes: {', '.join(scopes)}; {scopes[-1]} wins",
        remedy=f"`pyro host disconnect {host.name} --scope SCOPE` for all but one",
    )


def _hidden(host: ChatHost, found: Found, hidden: list[Path]) -> HostProblem:
    files = ", ".join(map(str, (found.file.path, *hidden)))
    return HostProblem(
        status="duplicate-scope",
        detail=f"the entry stands in several files of scope {found.scope}: {files}; {found.file.path} wins",
        remedy=f"remove it from the others by hand, or `pyro host disconnect {host.name}` from all and connect again",
    )


def _version(host: ChatHost, program: Path) -> str:
    said = run([str(program), "--version"], env=host.where.environ, timeout=VERSION_SECONDS).stdout
    return said.strip()[:100]


def _with(report: HostReport, problem: HostProblem) -> HostReport:
    problems = [*report.problems, problem]
    gravest: HostStatus = max((one.status for one in problems), key=_GRAVITY.index)
    return replace(report, status=gravest, problems=problems)
