"""Offer: what a server tells of itself, as the protocol writes it. Made without the MCP library, and then given to
it, so that who answers a question makes no difference."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from pyro_mcp.surfaces.mcp.prompts import recipes
from pyro_mcp.surfaces.mcp.resources import kinds
from pyro_mcp.surfaces.mcp.tools import BoundTool, tool_wording
from pyro_mcp.version import VERSION


class Offer:
    """The tools of one server, what it says of them, and the recipes and resources that they make possible."""

    implementation = {"name": "pyro", "title": "pyro", "version": VERSION}

    def __init__(self, tools: dict[str, BoundTool], instructions: str) -> None:
        self.tools = tools
        self.wording = tool_wording(tools)
        self.instructions = instructions
        self.recipes = recipes(tools)
        self.resources = kinds(tools)

    @cached_property
    def lists(self) -> dict[str, dict[str, Any]]:
        """The result of each method that lists something."""
        found: dict[str, dict[str, Any]] = {
            "tools/list": {"tools": [tool.listed(self.wording) for tool in self.tools.values()]}
        }
        if self.recipes:
            found["prompts/list"] = {"prompts": [one.listed() for one in self.recipes.values()]}
        if self.resources:
            listed = [kind.listed() for kind in self.resources]
            found["resources/list"] = {"resources": [one for one in listed if "uri" in one]}
            found["resources/templates/list"] = {"resourceTemplates": [one for one in listed if "uri" not in one]}
        return found

    @property
    def capabilities(self) -> dict[str, dict[str, bool]]:
        found = {}
        if self.recipes:
            found["prompts"] = {"listChanged": False}
        if self.resources:
            found["resources"] = {"listChanged": False, "subscribe": False}
        return {**found, "tools": {"listChanged": False}}
