"""The doctor tells each way in which a host does not get its server apart, and starts nothing that others wrote."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hostlab import STANDINS, where, wish

from pyro_mcp.hosts import catalog, probe
from pyro_mcp.hosts.connect import Wish, connect
from pyro_mcp.hosts.doctor import examine, examine_all
from pyro_mcp.hosts.launcher import Launcher
from pyro_mcp.model.host import HostReport


@pytest.fixture
def standin(home: Path) -> Callable[..., Wish]:
    """A wish for a server that behaves as told."""
    directory = home / "bin"
    directory.mkdir()
    install(directory / "pyro")

    def behaving(mode: str, *options: str) -> Wish:
        (directory / "mode").write_text(mode)
        return replace(wish(*options), launcher=Launcher(where(), str(directory / "pyro"), ()))

    return behaving


def install(path: Path) -> None:
    """The stand-in for a server, run by this very interpreter, since a wrapper would add variables."""
    path.write_text((STANDINS / "server").read_text().replace("/usr/bin/env python3", sys.executable))
    path.chmod(0o755)


def problems(report: HostReport) -> list[str]:
    return [one.status for one in report.problems]


def test_the_real_server_answers_in_the_sparest_environment(lab: SimpleNamespace) -> None:
    connect(lab.host(), None, wish())
    report = examine(lab.host(), wish(keep=True))
    assert report.status in ("ok", "slow"), report.problems
    assert (report.scope, report.path) == ("user", str(lab.file))
    assert report.tool_count is not None
    assert report.tool_count > 15
    assert report.ready_seconds is not None
    assert report.exit_seconds is not None
    assert report.exit_seconds < probe.LEAVE_SECONDS
    assert report.approvals is not None
    if lab.name == "codex":
        assert {"workspace_export", "workspace_delete", "workspace_reset"} <= set(report.approvals.asks)
        assert {"workspace_create", "workspace_exec", "workspace_diff"} <= set(report.approvals.unasked)
        assert 'approval_mode = "approve"' in report.approvals.how


def test_not_there_and_not_connected(lab: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    assert examine(lab.host(), wish()).status == "not-connected"
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    absent = examine(lab.host(), wish())
    assert absent.status == "not-installed"
    assert f"pyro host connect {lab.name}" in str(absent.problems[0].remedy)
    assert examine_all([lab.host(), lab.host()], wish()).ok
    assert not examine_all([lab.host()], wish()).ok


def test_a_program_that_does_not_run(lab: SimpleNamespace, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = home / "broken" / lab.host().program
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho no node here >&2; exit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{broken.parent}{os.pathsep}{os.environ['PATH']}")
    report = examine(lab.host(), wish())
    assert report.status == "fails"
    assert "no node here" in report.problems[0].detail


def test_an_unreadable_file(lab: SimpleNamespace) -> None:
    lab.file.write_text("{ nonsense")
    report = examine(lab.host(), wish())
    assert report.status == "unreadable-config"
    assert str(lab.file) in report.problems[0].detail


def test_drift_names_the_keys(lab: SimpleNamespace, standin: Callable[..., Wish]) -> None:
    connect(lab.host(), None, standin("well"))
    host = lab.host()
    found = host.find("user", "pyro")
    key = {"claude-code": "args", "codex": "required", "opencode": "timeout"}[lab.name]
    wrong: Any = {"args": ["mcp", "serve", "--no-such-option"], "required": False, "timeout": 1}[key]
    host.change(found, "pyro", {**found.entry, key: wrong})
    report = examine(lab.host(), replace(standin("well"), options=None))
    assert (report.problems[0].status, report.problems[0].entry_keys) == ("drifted", [key])
    lost = key == "args"
    assert ("--no-such-option" in report.problems[0].detail) is lost
    assert ("pyro host connect" if lost else f"pyro host repair {lab.name}") in str(report.problems[0].remedy)


def test_other_options_are_drift_only_when_some_are_asked_for(
    lab: SimpleNamespace, standin: Callable[..., Wish]
) -> None:
    connect(lab.host(), None, standin("well", "--profile", "vm-run"))
    assert examine(lab.host(), replace(standin("well"), options=None)).status == "ok"
    assert examine(lab.host(), standin("well", "--profile", "workspace-full")).status == "drifted"


def test_a_persons_preference_is_no_drift(home: Path, standin: Callable[..., Wish]) -> None:
    host = catalog.host("claude-code", where())
    connect(host, None, standin("well"))
    found = host.find("user", "pyro")
    host.change(found, "pyro", {**found.entry, "alwaysLoad": False, "timeout": 5})
    assert "drifted" not in problems(examine(host, standin("well")))
    assert connect(host, None, standin("well")).action == "unchanged"


def test_a_missing_command(lab: SimpleNamespace, standin: Callable[..., Wish]) -> None:
    gone = standin("well")
    connect(lab.host(), None, gone)
    Path(gone.launcher.command).unlink()
    assert examine(lab.host(), gone).status == "command-missing"


def ends(pid: int) -> bool:
    """Whether a process that was killed is gone, or waits to be reaped: its end is not its killer's to wait for."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            if "Z" in Path(f"/proc/{pid}/stat").read_text().split(") ")[1][:1]:
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize(
    ("mode", "told"),
    [
        ("dies", "exit code 1; it said: Traceback: / no module named mcp"),
        ("babbles", "what is no message"),
        ("refuses", "refused initialize"),
        ("stays", "was still there"),
        ("hangs", "did not answer initialize"),
    ],
)
def test_a_server_that_fails_is_told_with_its_last_words(
    home: Path, standin: Callable[..., Wish], mode: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "LEAVE_SECONDS", 0.5 if mode == "stays" else 10.0)
    monkeypatch.setattr(probe, "ANSWER_SECONDS", 3.0 if mode == "hangs" else 60.0)
    host = catalog.host("codex", where())
    connect(host, None, standin(mode))
    report = examine(host, standin(mode))
    assert report.status == "fails"
    assert told in report.problems[-1].detail
    if mode == "hangs" and (home / "bin" / "child").exists():
        assert ends(int((home / "bin" / "child").read_text()))


def test_a_server_that_is_later_than_the_host_waits(
    lab: SimpleNamespace, standin: Callable[..., Wish], monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(lab.host(), None, standin("well"))
    monkeypatch.setattr(type(lab.host()), "patience", lambda self, entry: 0.0)
    reports = examine_all([lab.host()], standin("well"))
    assert (reports.hosts[0].status, reports.ok) == ("slow", True)


def test_how_long_hosts_wait(home: Path) -> None:
    codex, claude = catalog.host("codex", where()), catalog.host("claude-code", where())
    assert codex.patience({"required": True, "startup_timeout_sec": 30}) == 30
    assert codex.patience({"startup_timeout_sec": 30}) == 1
    assert claude.patience({"alwaysLoad": True}) == 5
    assert catalog.host("opencode", where()).patience({}) == 5


def test_the_server_gets_what_codex_would_give_it(
    home: Path, standin: Callable[..., Wish], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "s3cr3t")
    host = catalog.host("codex", where())
    connect(host, None, standin("well"))
    found = host.find("user", "pyro")
    host.change(found, "pyro", {**found.entry, "env": {"MINE": "1"}})
    assert examine(host, standin("well")).status == "ok"
    seen = set(json.loads((home / "bin" / "environ").read_text())) - {"LC_CTYPE"}
    assert seen - {"LANG", "TERM"} == {"HOME", "PATH", "MINE"}


def test_the_entry_stands_twice(lab: SimpleNamespace, standin: Callable[..., Wish]) -> None:
    if lab.name == "codex":
        lab.file.write_text(f'[projects."{Path.cwd()}"]\ntrust_level = "trusted"\n')
    connect(lab.host(), "user", standin("well"))
    connect(lab.host(), "project", standin("well"))
    report = examine(lab.host(), standin("well"))
    assert (report.status, report.scope) == ("duplicate-scope", "project")
    assert "user, project" in report.problems[0].detail


def test_in_the_home_directory_one_file_is_not_two(
    lab: SimpleNamespace, standin: Callable[..., Wish], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(lab.file.parent if lab.name == "opencode" else home)
    connect(lab.host(), "user", standin("well"))
    assert examine(lab.host(), standin("well")).status == "ok"


@pytest.mark.parametrize("trick", ["command", "env"])
def test_what_a_project_says_is_not_started(
    lab: SimpleNamespace, standin: Callable[..., Wish], trick: str, home: Path
) -> None:
    """Looking must be safe in a checkout of anybody's."""
    good = standin("well")
    key = "environment" if lab.name == "opencode" else "env"
    entry = lab.host().entry(good.launcher.server(()))
    if trick == "env":
        entry[key] = {"PYTHONPATH": "/evil"}
    else:
        install(home / "project" / "pyro")
        (home / "project" / "mode").write_text("well")
        entry = lab.host().entry(Launcher(where(), str(home / "project" / "pyro"), ()).server(()))
    lab.project.parent.mkdir(exist_ok=True)
    lab.project.write_text(lab.host().format.show("pyro", entry))
    report = examine(lab.host(), good)
    assert "not tried" in " ".join(report.notes)
    assert not (home / "project" / "environ").exists()
    assert not (home / "bin" / "environ").exists()


def test_a_program_that_is_not_pyro_is_not_started(lab: SimpleNamespace, home: Path) -> None:
    entry = lab.host().entry(wish().launcher.server(()))
    foreign = str(STANDINS / "server")
    entry |= {"command": [foreign]} if lab.name == "opencode" else {"command": foreign, "args": []}
    lab.file.write_text(lab.host().format.show("pyro", entry))
    report = examine(lab.host(), wish())
    assert report.status == "drifted"
    assert "does not start pyro" in " ".join(report.notes)


def test_what_each_host_runs_unasked(home: Path) -> None:
    tools = [
        probe._tool({"name": "look", "annotations": {"readOnlyHint": True}}),
        probe._tool({"name": "work", "annotations": {"destructiveHint": False, "openWorldHint": False}}),
        probe._tool({"name": "fetch", "annotations": {"destructiveHint": False, "openWorldHint": True}}),
        probe._tool({"name": "wipe", "annotations": {"destructiveHint": True, "openWorldHint": False}}),
        probe._tool({"name": "bare"}),
    ]
    codex, claude, opencode = (catalog.host(name, where()) for name in ("codex", "claude-code", "opencode"))
    assert codex.approvals(tools, "pyro", {}).unasked == ["look", "work"]
    assert codex.approvals(tools, "pyro", {"default_tools_approval_mode": "approve"}).asks == []
    assert codex.approvals(tools, "pyro", {"default_tools_approval_mode": "prompt"}).unasked == []
    one = {"tools": {"wipe": {"approval_mode": "approve"}, "look": {"approval_mode": "prompt"}}}
    assert codex.approvals(tools, "pyro", one).unasked == ["work", "wipe"]
    assert claude.approvals(tools, "pyro", {}).unasked == []
    (home / ".claude").mkdir()
    (home / ".claude" / "settings.json").write_text('{"permissions": {"allow": ["mcp__pyro__look", "Bash"]}}')
    assert claude.approvals(tools, "pyro", {}).unasked == ["look"]
    Path(".claude").mkdir()
    Path(".claude/settings.json").write_text('{"permissions": {"allow": ["mcp__pyro"]}}')
    assert claude.approvals(tools, "pyro", {}).asks == []
    assert opencode.approvals(tools, "pyro", {}).asks == []


def test_a_way_that_may_not_last_is_told(home: Path, standin: Callable[..., Wish]) -> None:
    (home / "pyvenv.cfg").write_text("")
    host = catalog.host("codex", where())
    connect(host, None, standin("well"))
    report = examine(host, standin("well"))
    assert report.status == "ok"
    assert "virtual environment" in report.notes[0]
    assert os.fspath(home / "bin" / "pyro") in report.notes[0]
