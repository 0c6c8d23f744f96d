"""The SDK: everything the contract promises, with types, and nothing imported before it is used."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

import pyro_mcp
from pyro_mcp import PyroError
from pyro_mcp.model.result import Result
from pyro_mcp.surfaces import catalog
from pyro_mcp.surfaces.sdk import Pyro

METHODS = {
    *("list_environments", "pull_environment", "inspect_environment", "prune_environments"),
    *("create_vm", "start_vm", "exec_vm", "stop_vm", "delete_vm", "status_vm", "network_info_vm"),
    *("reap_expired", "run_in_vm", "create_server"),
    *("create_workspace", "list_workspaces", "status_workspace", "update_workspace", "start_workspace"),
    *("stop_workspace", "delete_workspace", "exec_workspace", "logs_workspace"),
    *("reset_workspace", "create_snapshot", "list_snapshots", "delete_snapshot"),
    *("list_workspace_files", "read_workspace_file", "write_workspace_file", "search_workspace_files"),
    *("edit_workspace_file", "view_workspace_files"),
    *("apply_workspace_patch", "diff_workspace", "push_workspace_sync", "export_workspace"),
    *("start_service", "list_services", "status_service", "logs_service", "stop_service"),
    *("open_shell", "list_shells", "read_shell", "write_shell", "signal_shell", "resize_shell", "close_shell"),
    *("attach_shell", "show_project", "trust_project"),
    *("summarize_workspace", "export_workspace_disk", "list_workspace_disk", "read_workspace_disk"),
}


def test_the_contracts_methods_are_there_and_explained() -> None:
    for name in METHODS:
        assert inspect.getdoc(getattr(Pyro, name)), name


def test_every_verb_of_the_node_is_a_method() -> None:
    assert {verb.name for verb in catalog.every_operation() if not verb.local} <= METHODS


def test_help_shows_the_verbs_signature() -> None:
    shown = str(inspect.signature(Pyro.run_in_vm))
    assert "command" in shown
    assert "mem_mib" in shown
    assert "Engine" not in shown


def test_all_is_what_can_be_imported() -> None:
    assert sorted(pyro_mcp.__all__) == list(pyro_mcp.__all__)
    for name in pyro_mcp.__all__:
        assert getattr(pyro_mcp, name) is not None
    assert dir(pyro_mcp) == list(pyro_mcp.__all__)
    with pytest.raises(AttributeError):
        _ = pyro_mcp.nothing
    with pytest.raises(ImportError):
        importlib.import_module("pyro_mcp.nothing")


def results(kind: object) -> set[type]:
    """The result types in `kind`: itself, and what its fields hold."""
    if isinstance(kind, type) and issubclass(kind, Result):
        return {kind}.union(*(results(part) for part in get_type_hints(kind).values()))
    return set().union(*(results(part) for part in get_args(kind)))


def test_what_a_method_answers_or_raises_can_be_named() -> None:
    public = {getattr(pyro_mcp, name) for name in pyro_mcp.__all__}
    answered = set().union(*(results(verb.result_type) for verb in catalog.every_operation() if not verb.local))
    assert len(answered) > 50
    assert answered - public == set()
    raised = {one for one in PyroError.__subclasses__() if one.__module__ == PyroError.__module__}
    assert len(raised) > 10
    assert {PyroError, *raised} - public == set()


def test_importing_the_package_imports_nothing_else() -> None:
    code = "import sys, pyro_mcp; assert not {m for m in sys.modules if 'pyro_mcp.' in m} - {'pyro_mcp.version'}"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_sdk_does_not_import_mcp_or_rich() -> None:
    code = "import sys; from pyro_mcp import Pyro; assert not {'mcp', 'rich', 'pydantic', 'sqlite3'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_static_types_are_the_verbs_own() -> None:
    page = Path(__file__).with_name("typed_sdk.py")
    command = [sys.executable, "-m", "mypy", "--strict", "--warn-unused-ignores", str(page)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=page.parents[3])
    assert done.returncode == 0, done.stdout + done.stderr
