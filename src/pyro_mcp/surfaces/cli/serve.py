"""`pyro mcp serve`: the tools over standard input and output, for a chat host to start."""

from __future__ import annotations

import argparse

from pyro_mcp.surfaces import catalog
from pyro_mcp.surfaces.cli.invoke import settings_of
from pyro_mcp.surfaces.cli.parser import Parser, add_leaf, common_options


def configure(parser: argparse.ArgumentParser) -> None:
    """Add `serve`."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=Parser)
    serve = add_leaf(commands, "serve", serve_stdio, "serve the tools over standard input and output")
    serve.add_argument(
        "--profile",
        choices=catalog.PROFILES,
        default=catalog.DEFAULT_PROFILE,
        metavar="PROFILE",
        help=f"which tools to show: {', '.join(catalog.PROFILES)} (default {catalog.DEFAULT_PROFILE})",
    )
    serve.add_argument(
        "--allow-host-compat",
        action="store_true",
        help="let tools ask for a plain host process, without isolation; off, they cannot even ask",
    )
    serve.add_argument(
        "--host-path",
        action="append",
        default=[],
        metavar="DIR",
        help="let tools seed from and export to DIR, besides the directory the server is started in; repeatable",
    )
    common_options(serve, json=False)


def serve_stdio(namespace: argparse.Namespace) -> int:
    """Serve until the host closes standard input or sends a signal. Does not return on a signal."""
    from pyro_mcp.surfaces.mcp import serve

    return serve(
        settings_of(namespace),
        namespace.profile,
        allow_host_compat=namespace.allow_host_compat,
        host_paths=namespace.host_path,
    )
