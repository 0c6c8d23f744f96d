"""`pyro mcp serve`: the tools over standard input and output, for a chat host to start, or over HTTP on this host."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pyro_mcp.errors import InvalidArgument
from pyro_mcp.model.names import DEFAULT_ENVIRONMENT
from pyro_mcp.surfaces import catalog
from pyro_mcp.surfaces.cli.invoke import settings_of
from pyro_mcp.surfaces.cli.parser import Parser, add_leaf, common_options

if TYPE_CHECKING:
    from pyro_mcp.surfaces.mcp.defaults import ServerDefaults


def configure(parser: argparse.ArgumentParser) -> None:
    """Add `serve`."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=Parser)
    serve = add_leaf(commands, "serve", run, "serve the tools over standard input and output, or over HTTP")
    add_options(serve)
    add_transport(serve)
    common_options(serve, json=False)


def add_options(parser: argparse.ArgumentParser) -> None:
    """What says how to serve; a chat host's entry holds it, too."""
    group = parser.add_argument_group("what to serve")
    group.add_argument(
        "--profile",
        choices=catalog.PROFILES,
        default=catalog.DEFAULT_PROFILE,
        metavar="PROFILE",
        help=f"which tools to show: {', '.join(catalog.PROFILES)} (default {catalog.DEFAULT_PROFILE})",
    )
    group.add_argument(
        "--allow-host-compat",
        action="store_true",
        help="let tools ask for a plain host process, without isolation; off, they cannot even ask",
    )
    group.add_argument(
        "--host-path",
        action="append",
        default=[],
        type=_absolute,
        metavar="DIR",
        help="let tools seed from and export to DIR, besides the directory the server is started in; repeatable",
    )
    group.add_argument(
        "--environment",
        metavar="ENV",
        help=f"environment where neither the model nor the project names one (default {DEFAULT_ENVIRONMENT})",
    )
    group.add_argument(
        "--project-path",
        type=_absolute,
        metavar="PATH",
        help="project that workspaces start with: a path in a git checkout, or another directory; the checkout around"
        " the working directory if none is given",
    )
    group.add_argument(
        "--repo-url",
        metavar="URL",
        help="repository that workspaces start with, as a clean clone: https, ssh, git or file URL, user@host:path or"
        " an absolute path",
    )
    group.add_argument("--repo-ref", metavar="REF", help="branch, tag or commit of --repo-url (default: its HEAD)")
    group.add_argument("--no-project-source", action="store_true", help="let workspaces start empty")


TRANSPORTS = ("stdio", "streamable-http")
HOST = "127.0.0.1"
PORT = 8797


def add_transport(parser: argparse.ArgumentParser) -> None:
    """How to serve, which a chat host that starts the server never chooses."""
    group = parser.add_argument_group("how to serve")
    group.add_argument(
        "--transport",
        choices=TRANSPORTS,
        default=TRANSPORTS[0],
        metavar="TRANSPORT",
        help="stdio: for the one that started it (default); streamable-http: for several clients of this host",
    )
    group.add_argument("--host", metavar="ADDRESS", help=f"loopback address to listen on, for HTTP (default {HOST})")
    group.add_argument("--port", type=_port, metavar="PORT", help=f"0 takes a free one, for HTTP (default {PORT})")
    group.add_argument(
        "--token-file",
        type=_absolute,
        metavar="FILE",
        help="file with the token that clients must send, for HTTP (default PYRO_MCP_TOKEN, else one made and kept)",
    )


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"not a port from 0 to 65535: {text!r}")
    return int(text)


def words(namespace: argparse.Namespace) -> tuple[str, ...]:
    """The options in `namespace` that are not the default, as a chat host gives them from any directory."""
    found: list[str] = []
    for action in _parser()._actions:
        value = getattr(namespace, action.dest)
        if action.dest in ("state_dir", "cache_dir") and value is not None:
            value = _absolute(value)
        if value == action.default:
            continue
        flag = action.option_strings[-1]
        if action.nargs == 0:
            found.append(flag)
        else:
            found += [word for one in (value if isinstance(value, list) else [value]) for word in (flag, str(one))]
    return tuple(found)


def read_words(given: Sequence[str]) -> tuple[str, ...]:
    """Options as `words` gives them. Raises `InvalidArgument` for what `serve` would refuse."""
    return words(_parser().parse_args(list(given)))


def _parser() -> Parser:
    parser = Parser(add_help=False)
    add_options(parser)
    common_options(parser, json=False)
    return parser


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


def defaults(namespace: argparse.Namespace) -> ServerDefaults:
    """The defaults that a server started with these options has. Raises `InvalidArgument` if it would not start."""
    from pyro_mcp.surfaces.mcp.defaults import ServerDefaults

    return ServerDefaults.of(
        environment=namespace.environment,
        project_path=namespace.project_path,
        repo_url=namespace.repo_url,
        repo_ref=namespace.repo_ref,
        no_project_source=namespace.no_project_source,
    )


def run(namespace: argparse.Namespace) -> int:
    """Serve until the host closes standard input or a signal comes. Does not return."""
    from pyro_mcp.surfaces.mcp import server
    from pyro_mcp.surfaces.mcp.stdio import serve_stdio

    settings = settings_of(namespace)
    offered = server.offer(
        namespace.profile,
        allow_host_compat=namespace.allow_host_compat,
        host_paths=namespace.host_path,
        defaults=defaults(namespace),
    )
    http = {name: getattr(namespace, name) for name in ("host", "port", "token_file")}
    if namespace.transport == TRANSPORTS[0]:
        for name, value in http.items():
            if value is not None:
                flag = "--" + name.replace("_", "-")
                raise InvalidArgument(
                    f"cannot use {flag} with {namespace.transport}", hint=f"Add --transport {TRANSPORTS[1]}."
                )
        return serve_stdio(settings, offered)
    from pyro_mcp.surfaces.client import Client
    from pyro_mcp.surfaces.mcp.http import serve_http

    built = server.build_server(Client(settings), offered)
    port = PORT if http["port"] is None else http["port"]
    return serve_http(settings, built, host=http["host"] or HOST, port=port, token_file=http["token_file"])
