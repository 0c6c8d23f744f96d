"""Prompts and resources: they name only what is there, and listing them costs nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError

from pyro_mcp.errors import InvalidArgument
from pyro_mcp.settings import Settings
from pyro_mcp.surfaces import catalog
from pyro_mcp.surfaces.mcp.prompts import MAX_ARGUMENT, RECIPES, PromptRecipe, recipes
from pyro_mcp.surfaces.mcp.resources import KINDS, find
from pyro_mcp.surfaces.mcp.server import create_server, offer

CORE = {"repro-fix-loop", "parallel-workspaces", "untrusted-inspection"}


def tool_names(profile: str) -> set[str]:
    return {one.tool or "" for one in catalog.tools(profile)}


def test_recipes_stand_in_the_profiles_of_the_contract() -> None:
    assert set(recipes(tool_names("vm-run"))) == set()
    assert set(recipes(tool_names("workspace-core"))) == CORE
    assert set(recipes(tool_names("workspace-full"))) == CORE | {"cold-start-validation", "review-eval"}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_a_recipe_needs_what_it_names(recipe: PromptRecipe) -> None:
    text = recipe.template()
    every = tool_names("workspace-full")
    fields = {field.name for operation in catalog.tools("workspace-full") for field in operation.fields}
    named = set(re.findall(r"\b[a-z]+(?:_[a-z]+)+\b", text))
    assert named & every == set(recipe.needs)
    assert named <= every | fields
    assert set(re.findall(r"\{(.*?)\}", text)) == {one.name for one in recipe.arguments}
    assert len(text) < 2_500


def test_arguments_go_where_they_belong() -> None:
    recipe = next(one for one in RECIPES if one.name == "repro-fix-loop")
    text = recipe.text({"fault": "it says {project} and {0}"})
    assert "Fault: it says {project} and {0}\n" in text
    assert "Project: the user's current project\n" in text
    for given, words in (
        ({}, "fault is missing"),
        ({"fault": ""}, "fault is missing"),
        ({"fault": "x", "colour": "red"}, "no argument 'colour'"),
        ({"fault": "x" * (MAX_ARGUMENT + 1)}, "too long"),
    ):
        with pytest.raises(InvalidArgument, match=words):
            recipe.text(given)


@pytest.mark.parametrize(
    ("uri", "name", "arguments"),
    [
        ("pyro://workspaces", "workspaces", {}),
        ("pyro://workspaces/a-b/summary", "workspace-summary", {"workspace_id": "a-b"}),
        ("pyro://workspaces/a%20b/diff", "workspace-diff", {"workspace_id": "a b"}),
        ("pyro://workspaces/w/files/src/a.py", "workspace-file", {"workspace_id": "w", "path": "src/a.py"}),
        ("pyro://workspaces/w/files/a%3Fb%25", "workspace-file", {"workspace_id": "w", "path": "a?b%"}),
    ],
)
def test_what_a_uri_asks_for(uri: str, name: str, arguments: dict[str, str]) -> None:
    kind, found = find(uri, KINDS)
    assert (kind.name, found) == (name, arguments)


@pytest.mark.parametrize(
    "uri",
    [
        *(
            "",
            "pyro://",
            "pyro://workspaces/",
            "pyro://workspaces/w",
            "pyro://workspaces/w/files/",
            "file:///etc/passwd",
        ),
        *(
            "pyro://workspaces//diff",
            "pyro://workspaces/w/diff?x",
            "pyro://workspaces/w/files/%ff",
            "PYRO://workspaces",
        ),
    ],
)
def test_what_is_no_resource_is_refused(uri: str) -> None:
    with pytest.raises(InvalidArgument, match="no such resource"):
        find(uri, KINDS)


@pytest.mark.parametrize("mode", ["legacy", "auto"])
def test_a_host_sees_them_without_starting_anything(mode: str, tmp_path: Path) -> None:
    async def refused(call: Any, words: str) -> None:
        with pytest.raises(MCPError, match=words) as caught:
            await call
        assert caught.value.error.code == -32602

    async def talk() -> None:
        server = create_server("workspace-core", settings=Settings.load({}, state_dir=tmp_path / "state"))
        async with Client(server, mode=mode) as client:  # type: ignore[arg-type]
            prompts = (await client.list_prompts()).prompts
            assert {one.name for one in prompts} == CORE
            got = await client.get_prompt("untrusted-inspection", {"code": "/tmp/x"})
            assert "Code: /tmp/x\n" in got.messages[0].content.text  # type: ignore[union-attr]
            listed = (await client.list_resources()).resources
            assert [one.uri for one in listed] == ["pyro://workspaces"]
            templates = (await client.list_resource_templates()).resource_templates
            assert len(templates) == 3
            await refused(client.get_prompt("review-eval", {"change": "x"}), "none of that name")
            await refused(client.get_prompt("repro-fix-loop", {}), "fault is missing")
            await refused(client.read_resource("pyro://nothing"), "no such resource")

    anyio.run(talk)
    assert not (tmp_path / "state").exists()


def test_a_server_without_workspaces_offers_neither() -> None:
    made = offer("vm-run", allow_host_compat=False)
    assert set(made.lists) == {"tools/list"}
    assert set(made.capabilities) == {"tools"}
