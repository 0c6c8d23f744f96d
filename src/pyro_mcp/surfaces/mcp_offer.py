"""Mcp offer: what a server tells of itself, as the protocol writes it. Made without the MCP library, and then given to
it, so that who answers a question makes no difference."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from pyro_mcp.surfaces.mcp_tools import BoundTool, tool_wording
from pyro_mcp.version import VERSION


class Offer:
    """The tools of one server, and what it says of them."""

    implementation = {"name": "pyro", "title": "pyro", "version": VERSION}
    capabilities = {"tools": {"listChanged": False}}

    def __init__(self, tools: dict[str, BoundTool], instructions: str) -> None:
        self.tools = tools
        self.wording = tool_wording(tools)
        self.instructions = instructions

    @cached_property
    def lists(self) -> dict[str, dict[str, Any]]:
        """The result of each method that lists something."""
        return {"tools/list": {"tools": [tool.listed(self.wording) for tool in self.tools.values()]}}
