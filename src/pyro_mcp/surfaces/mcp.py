"""Mcp: the operations as tools of a Model Context Protocol server.

This module knows what a server offers. Importing the MCP library costs four times what all of this does, so it is
imported when a server is made: one for a host's pipe answers the host's first questions without it.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pyro_mcp.settings import Settings
from pyro_mcp.surfaces import catalog
from pyro_mcp.surfaces.mcp_offer import Offer
from pyro_mcp.surfaces.mcp_paths import host_roots
from pyro_mcp.surfaces.mcp_tools import BoundTool

if TYPE_CHECKING:
    from mcp.server import Server

    from pyro_mcp.surfaces.client import Client

INSTRUCTIONS = """\
Runs commands in disposable Linux virtual machines. vm_run starts a fresh machine, runs one command and deletes the
machine: nothing is kept between calls, and nothing of the user's computer is visible inside. Environments: debian:12
(git), debian:12-base (minimal), debian:12-build (git, gcc, make, cmake, python3). A non-zero exit_code is a result, not
a failure of the tool. Commands are killed after timeout_seconds (default 30). Long output is cut in the middle and
says so. The first use of an environment installs it, which takes minutes and reports progress."""
WORKSPACE_INSTRUCTIONS = """\

Workspaces keep their files in /workspace between calls: workspace_create (give seed_path to start from a directory or
archive of the user's), then workspace_exec, workspace_file_*, workspace_patch_apply; look at workspace_diff, take work
out with workspace_export, and workspace_delete when done. For a command that takes longer than a minute give
wait_seconds and follow it with workspace_logs."""
LIVING_INSTRUCTIONS = """\

What keeps state or wants a terminal: shell_open, shell_write, then shell_read with plain, wait_for_idle_ms and the
next_cursor of the read before. What should go on: service_start, not "&" in a command; published_ports need
network_policy "egress+published-ports". There is no network unless workspace_create gets a network_policy; a refused
connection is named in the result with the option that would allow it, which the user may have to grant."""


def create_server(
    profile: str = catalog.DEFAULT_PROFILE,
    *,
    settings: Settings | None = None,
    allow_host_compat: bool = False,
    host_paths: Iterable[Path | str] = (),
) -> Server[Any]:
    """An MCP server with the tools of `profile`, ready for `server.run(...)` or an in-process `mcp.Client(server)`.

    The node is started by the first call, not here. `allow_host_compat` lets a call ask for a plain host process;
    `host_paths` are places, besides the working directory, that tools may read from and export to. Raises
    `InvalidArgument` for an unknown profile.
    """
    from pyro_mcp.surfaces.client import Client

    client = Client(settings or Settings.load())
    return build_server(client, profile, allow_host_compat=allow_host_compat, host_paths=host_paths)


def serve(
    settings: Settings, profile: str, *, allow_host_compat: bool = False, host_paths: Iterable[Path | str] = ()
) -> NoReturn:
    """Serve over standard input and output until the host has done; the process ends here."""
    from pyro_mcp.surfaces.mcp_stdio import serve_stdio

    serve_stdio(settings, offer(profile, allow_host_compat=allow_host_compat, host_paths=host_paths))


def build_server(
    client: Client, profile: str, *, allow_host_compat: bool, host_paths: Iterable[Path | str] = ()
) -> Server[Any]:
    """A server whose tools go through `client`."""
    from pyro_mcp.surfaces.mcp_server import library_server

    return library_server(client, offer(profile, allow_host_compat=allow_host_compat, host_paths=host_paths))


def offer(profile: str, *, allow_host_compat: bool, host_paths: Iterable[Path | str] = ()) -> Offer:
    """What a server of `profile` offers, started so. Raises `InvalidArgument` for an unknown profile."""
    roots = host_roots(host_paths)
    bound = [
        BoundTool(one, profile, allow_host_compat=allow_host_compat, roots=roots) for one in catalog.tools(profile)
    ]
    tools = {tool.name: tool for tool in bound}
    return Offer(tools, instructions(tools))


def instructions(tools: Container[str]) -> str:
    """The instructions for a model: the tools it sees, and no others; it reads this every time."""
    text = INSTRUCTIONS
    if "workspace_create" in tools:
        text += WORKSPACE_INSTRUCTIONS
    if "shell_open" in tools and "service_start" in tools:
        text += LIVING_INSTRUCTIONS
    return text
