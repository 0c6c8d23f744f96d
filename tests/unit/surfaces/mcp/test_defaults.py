"""What a server gives for what a model leaves out: a project, an environment, and nothing beyond its roots."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pyro_mcp.errors import InvalidArgument, PermissionDenied
from pyro_mcp.model.names import DEFAULT_ENVIRONMENT
from pyro_mcp.surfaces import catalog
from pyro_mcp.surfaces.mcp.defaults import ServerDefaults
from pyro_mcp.surfaces.mcp.instructions import instructions
from pyro_mcp.surfaces.mcp.paths import host_roots
from pyro_mcp.surfaces.mcp.server import offer
from pyro_mcp.surfaces.mcp.tools import BoundTool, tool_wording

URL = "https://example.com/r.git"


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    root = tmp_path / "repo"
    (root / ".git").mkdir(parents=True)
    (root / "deep" / "er").mkdir(parents=True)
    return root


def bound(defaults: ServerDefaults, *, profile: str = "workspace-core", roots: Any = ()) -> dict[str, BoundTool]:
    places = host_roots((*roots, *defaults.roots))
    return {
        one.tool or "": BoundTool(one, profile, allow_host_compat=False, roots=places, defaults=defaults)
        for one in catalog.tools(profile)
    }


def schema(tool: BoundTool, tools: dict[str, BoundTool]) -> dict[str, Any]:
    return tool.describe(tool_wording(tools)).input_schema


def test_the_checkout_around_the_working_directory_is_the_project(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repo / "deep" / "er")
    defaults = ServerDefaults.of()
    assert defaults.source == {"seed_path": str(repo), "git": True}
    assert ServerDefaults.of(no_project_source=True).source == {}
    assert ServerDefaults.of(repo_url=URL).source == {"repo_url": URL}
    create = bound(defaults)["workspace_create"]
    made = create.params({"name": "w"})
    assert made == {"name": "w", "seed_path": str(repo), "git": True, "environment": DEFAULT_ENVIRONMENT}
    assert create.params({"git": True})["seed_path"] == str(repo)
    # By its path it is the same project, whoever wrote that; a link to it, too.
    for path in (str(repo), f"{repo}/deep/..", "../.."):
        assert create.params({"name": "w", "seed_path": path}) == made
    # A file of it, or another directory, is still for the model to name.
    assert create.params({"seed_path": str(repo / "deep")}) == {
        "seed_path": str(repo / "deep"),
        "environment": DEFAULT_ENVIRONMENT,
    }


def test_of_a_linked_work_tree_the_files_are_the_project(repo: Path, tmp_path: Path) -> None:
    tree = tmp_path / "linked"
    tree.mkdir()
    (tree / ".git").write_text(f"gitdir: {repo}/.git/worktrees/linked\n")
    defaults = ServerDefaults.of(project_path=tree)
    assert defaults.source == {"seed_path": str(tree), "project_file": True}
    assert not defaults.has_repository
    assert "git has no repository there" in offer("workspace-core", defaults=defaults).instructions


@pytest.mark.parametrize("nothing", [{"empty": True}, {"seed_path": ""}, {"empty": True, "seed_path": ""}])
def test_a_model_may_want_nothing(nothing: dict[str, Any], repo: Path) -> None:
    create = bound(ServerDefaults.of(project_path=repo))["workspace_create"]
    assert create.params(nothing) == {"empty": True, "environment": DEFAULT_ENVIRONMENT}


def test_home_and_everything_are_no_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "notes").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path / "notes")
    assert ServerDefaults.of().source == {}
    # Named, it is a plain directory.
    assert ServerDefaults.of(project_path="~/notes").source == {
        "seed_path": str(tmp_path / "notes"),
        "project_file": True,
    }


def test_what_contradicts_itself_is_refused_at_the_start(repo: Path, tmp_path: Path) -> None:
    for given in ({"project_path": repo, "repo_url": URL}, {"repo_url": URL, "no_project_source": True}):
        with pytest.raises(InvalidArgument, match="two projects"):
            ServerDefaults.of(**given)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="no --repo-url"):
        ServerDefaults.of(repo_ref="main", no_project_source=False)
    with pytest.raises(InvalidArgument, match="no such directory"):
        ServerDefaults.of(project_path=tmp_path / "gone")
    for url in ("ext::sh -c x", "http://example.com/r.git", "r.git"):
        with pytest.raises(InvalidArgument, match="no URL that is fetched") as caught:
            ServerDefaults.of(repo_url=url)
        assert "https://" in str(caught.value.hint)
    with pytest.raises(InvalidArgument, match="no branch"):
        ServerDefaults.of(repo_url=URL, repo_ref="--upload-pack=x")


def test_a_repository_is_what_the_server_was_started_with(tmp_path: Path) -> None:
    defaults = ServerDefaults.of(repo_url=URL, repo_ref="main")
    create = bound(defaults, roots=[tmp_path])["workspace_create"]
    assert create.params({}) == {"repo_url": URL, "repo_ref": "main", "environment": DEFAULT_ENVIRONMENT}
    assert create.params({"git": False})["repo_url"] == URL
    for name in ("repo_url", "repo_ref", "project_file"):
        with pytest.raises(InvalidArgument, match=f"no parameter '{name}'"):
            create.params({name: "x"})
    assert create.params({"seed_path": str(tmp_path)}) == {
        "seed_path": str(tmp_path),
        "environment": DEFAULT_ENVIRONMENT,
    }


def test_a_checkout_whose_top_lies_outside_is_not_taken(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    create = bound(ServerDefaults(), roots=[repo / "deep"])["workspace_create"]
    assert create.params({"seed_path": str(repo / "deep" / "er")})
    with pytest.raises(PermissionDenied, match="lies outside"):
        create.params({"seed_path": str(repo / "deep" / "er"), "git": True})


def test_the_environment_may_be_left_out_and_the_schema_says_what_it_then_is(repo: Path) -> None:
    for defaults, text in (
        (ServerDefaults(), f"default {DEFAULT_ENVIRONMENT}"),
        (ServerDefaults("debian:12"), "default debian:12)"),
        (ServerDefaults.of(environment="debian:12", project_path=repo), "default the project's, else debian:12)"),
    ):
        tools = bound(defaults, profile="workspace-full")
        for name in ("workspace_create", "vm_run", "vm_create"):
            shown = schema(tools[name], tools)
            assert "environment" not in shown.get("required", [])
            assert text in shown["properties"]["environment"]["description"]
        assert tools["vm_run"].params({"command": "true"})["environment"] == defaults.environment
        given = tools["vm_run"].params({"command": "true", "environment": "debian:12-base"})
        assert given["environment"] == "debian:12-base"


def test_the_project_is_asked_for_an_environment_only_where_it_may_name_one(repo: Path) -> None:
    defaults = ServerDefaults.of(project_path=repo)
    tools = bound(defaults)
    create, run, execute = (tools[name].operation for name in ("workspace_create", "vm_run", "workspace_exec"))
    assert defaults.asks_project(create, {}) is None
    (repo / "pyro.toml").write_text("")
    for operation in (create, run):
        assert defaults.asks_project(operation, {}) == {"path": str(repo)}
        assert defaults.asks_project(operation, {"environment": None}) == {"path": str(repo)}
        assert defaults.asks_project(operation, {"environment": "debian:12"}) is None
    assert defaults.asks_project(execute, {}) is None
    assert ServerDefaults().asks_project(create, {}) is None
    assert ServerDefaults.of(repo_url=URL).asks_project(run, {}) == {"repo_url": URL}


def test_only_a_server_with_a_project_speaks_of_it(repo: Path) -> None:
    with_it, without = ServerDefaults.of(project_path=repo), ServerDefaults()
    assert "empty" in schema(bound(with_it)["workspace_create"], bound(with_it))["properties"]
    assert "empty" not in schema(bound(without)["workspace_create"], bound(without))["properties"]
    assert "user's project" in instructions(bound(with_it), project=True, repository=True)
    assert "user's project" not in instructions(bound(without))
    assert len(instructions(bound(with_it, profile="workspace-full"), project=True)) < 2_000


def test_a_missing_path_is_the_working_directory_where_its_declaration_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyro_mcp.api.project import show_project
    from pyro_mcp.api.workspace import create_workspace

    monkeypatch.chdir(tmp_path)
    here = os.getcwd()
    assert create_workspace.localized({"git": True}) == {"git": True, "seed_path": here}
    assert create_workspace.localized({"git": False}) == {"git": False}
    assert create_workspace.localized({}) == {}
    assert create_workspace.localized({"git": True, "seed_path": "x"})["seed_path"] == f"{here}/x"
    assert show_project.localized({}) == {"path": here}
