"""Server: the operations as tools of a Model Context Protocol server.

This module knows what a server offers. Importing the MCP library costs four times what all of this does, so it is
imported when a server is made: one for a host's pipe answers the host's first questions without it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyro_mcp.settings import Settings
from pyro_mcp.surfaces import catalog
from pyro_mcp.surfaces.mcp.defaults import ServerDefaults
from pyro_mcp.surfaces.mcp.instructions import instructions
from pyro_mcp.surfaces.mcp.offer import Offer
from pyro_mcp.surfaces.mcp.paths import host_roots
from pyro_mcp.surfaces.mcp.tools import BoundTool

if TYPE_CHECKING:
    from mcp.server import Server

    from pyro_mcp.surfaces.client import Client


def create_server(
    profile: str = catalog.DEFAULT_PROFILE,
    *,
    settings: Settings | None = None,
    allow_host_compat: bool = False,
    host_paths: Iterable[Path | str] = (),
    defaults: ServerDefaults | None = None,
) -> Server[Any]:
    """An MCP server with the tools of `profile`, ready for `server.run(...)` or an in-process `mcp.Client(server)`.

    The node is started by the first call, not here. `allow_host_compat` lets a call ask for a plain host process;
    `host_paths` are places, besides the working directory, that tools may read from and export to; `defaults` are the
    project and the environment of workspaces for which a model names none. Raises `InvalidArgument` for an unknown
    profile.
    """
    from pyro_mcp.surfaces.client import Client

    offered = offer(profile, allow_host_compat=allow_host_compat, host_paths=host_paths, defaults=defaults)
    return build_server(Client(settings or Settings.load()), offered)


def build_server(client: Client, offered: Offer) -> Server[Any]:
    """A server of what is `offered`, whose tools go through `client`."""
    from pyro_mcp.surfaces.mcp.library import library_server

    return library_server(client, offered)


def offer(
    profile: str,
    *,
    allow_host_compat: bool = False,
    host_paths: Iterable[Path | str] = (),
    defaults: ServerDefaults | None = None,
) -> Offer:
    """What a server of `profile` offers, started so. Raises `InvalidArgument` for an unknown profile."""
    defaults = defaults or ServerDefaults()
    roots = host_roots((*host_paths, *defaults.roots))
    bound = [
        BoundTool(one, profile, allow_host_compat=allow_host_compat, roots=roots, defaults=defaults)
        for one in catalog.tools(profile)
    ]
    tools = {tool.name: tool for tool in bound}
    text = instructions(tools, project=bool(defaults.source), repository=defaults.has_repository)
    return Offer(tools, text)
