"""Hints name operations and parameters as the surface that shows them does, and by nothing else."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyro_mcp
from pyro_mcp.errors import Conflict
from pyro_mcp.operations.wording import PLACEHOLDER, Wording
from pyro_mcp.surfaces import catalog
from pyro_mcp.surfaces.mcp.tools import BoundTool, tool_wording
from pyro_mcp.surfaces.wording import CLI, SDK

SOURCE = Path(pyro_mcp.__file__).parent
VERBS = {verb.name: verb for verb in catalog.every_operation()}
TOOLS = {verb.tool for verb in VERBS.values() if verb.tool}


def mcp(profile: str, *, allow_host_compat: bool = False) -> Wording:
    shown = catalog.tools(profile)
    return tool_wording({one.tool or "": BoundTool(one, profile, allow_host_compat=allow_host_compat) for one in shown})


START = "Start it with <<start_workspace>> first"
HOSTS = "<<create_workspace.allow_hosts=a.test>>"
POLICY = "<<create_workspace.network_policy=egress>>"


@pytest.mark.parametrize(
    ("wording", "text", "shown"),
    [
        (CLI, START, "Start it with `pyro workspace start` first"),
        (SDK, START, "Start it with start_workspace first"),
        (mcp("workspace-full"), START, "Start it with workspace_start first"),
        (mcp("workspace-core"), START, "Start it with workspace_start first"),
        (mcp("vm-run"), START, "Start it with `pyro workspace start` (no tool of this server) first"),
        (CLI, HOSTS, "--allow-host a.test"),
        (SDK, HOSTS, "allow_hosts=['a.test']"),
        (mcp("workspace-full"), HOSTS, 'allow_hosts: ["a.test"]'),
        (
            mcp("workspace-core"),
            HOSTS,
            'allow_hosts: ["a.test"] (only when the server is started with --profile workspace-full)',
        ),
        (CLI, POLICY, "--network-policy egress"),
        (SDK, POLICY, "network_policy='egress'"),
        (mcp("workspace-full"), POLICY, 'network_policy: "egress"'),
        (CLI, "<<create_workspace.allow_host_compat>>", "--allow-host-compat"),
        (mcp("vm-run", allow_host_compat=True), "<<run_in_vm.allow_host_compat>>", "allow_host_compat"),
        (
            mcp("workspace-full"),
            "<<create_workspace.allow_host_compat>>",
            "allow_host_compat (only when the server is started with --allow-host-compat)",
        ),
        (CLI, "<<write_workspace_file.text>>", "--text or --text-file"),
        (CLI, "<<start_workspace(mine)>>", "`pyro workspace start mine`"),
        (SDK, "<<start_workspace(mine)>>", "start_workspace('mine')"),
        (mcp("workspace-full"), "<<start_workspace(mine)>>", "workspace_start"),
        (CLI, "<<absent(mine)>>, <<start_workspace(a)b>>", "<<absent(mine)>>, <<start_workspace(a)b>>"),
        (CLI, "as <<create_vm>> returned it", "as create_vm returned it"),
        (CLI, "a << b >> c, <<path>>, <<x.y>>", "a << b >> c, <<path>>, <<x.y>>"),
    ],
)
def test_a_name_is_the_surfaces_own(wording: Wording, text: str, shown: str) -> None:
    assert wording.text(text) == shown


def test_only_hints_are_worded() -> None:
    error = CLI.error(Conflict("cannot use <<start_workspace>>: it is stopped", hint=START))
    assert error.message == "cannot use <<start_workspace>>: it is stopped"
    assert error.hint == "Start it with `pyro workspace start` first"
    told = {"entries": [{"content": START, "hint": START}], "remedy": START, "hint": None}
    shown = SDK.result(told)
    assert shown["entries"] == [{"content": START, "hint": "Start it with start_workspace first"}]
    assert (shown["remedy"], shown["hint"]) == ("Start it with start_workspace first", None)


def texts() -> Iterator[tuple[str, str]]:
    """Every text of the source below the surfaces, and where it stands; the agent knows the wire's names only."""
    for path in sorted(SOURCE.rglob("*.py")):
        if {"surfaces", "guest"} & set(path.parts):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield f"{path.name}:{node.lineno}", node.value


def test_every_mark_names_something_that_is_there() -> None:
    # A value may be put in when it runs: the mark's beginning names what must be there.
    begun = re.compile(r"<<([a-z_]+)(?:\.([a-z_]+))?(?:=|\(|>>)")
    marks = [(where, mark) for where, text in texts() for mark in begun.findall(text)]
    assert len(marks) > 20
    for where, (verb, name) in marks:
        assert verb in VERBS, where
        assert not name or name in {field.name for field in VERBS[verb].fields}, where


def test_no_text_below_the_surfaces_names_a_command_that_is_an_operation() -> None:
    commands = [f"`pyro {' '.join(verb.cli)}" for verb in VERBS.values() if verb.cli]
    assert [where for where, text in texts() if any(command in text for command in commands)] == []


def test_no_text_below_the_surfaces_names_a_tool() -> None:
    # One word alone is a name on the wire; among others it is read by somebody.
    read = [(where, PLACEHOLDER.sub("", text)) for where, text in texts() if " " in text.strip()]
    named = [(where, word) for where, text in read for word in re.findall(r"\w+", text) if word in TOOLS - {"vm_run"}]
    assert named == []
