"""`pyro project trust`: show what a project's file asks for, ask the person, and keep the answer."""

from __future__ import annotations

import argparse
import contextlib
import sys

from pyro_mcp.errors import Cancelled, InvalidArgument, NotFound
from pyro_mcp.operations.encode import encode
from pyro_mcp.surfaces.cli import render
from pyro_mcp.surfaces.cli.invoke import arguments, settings_of
from pyro_mcp.surfaces.cli.output import STDOUT, Output, is_terminal
from pyro_mcp.surfaces.client import Client

STDIN = 0


def configure(parser: argparse.ArgumentParser) -> None:
    """Add what stands for the person's answer."""
    parser.add_argument("--yes", action="store_true", help="do not ask: you have seen what it says")
    parser.set_defaults(handler=trust)


def trust(namespace: argparse.Namespace) -> int:
    """Exit code 0 when the file is trusted."""
    from pyro_mcp.api.project import show_project, trust_project

    output: Output = namespace.output
    if not namespace.yes and not (is_terminal(STDIN) and is_terminal(STDOUT)):
        raise InvalidArgument(
            "cannot ask whether you trust the project: this is no terminal",
            hint="Look at it with `pyro project show`, and give --yes",
        )
    params, _ = arguments(namespace.operation, namespace)
    show_project.validate(params)
    with contextlib.closing(Client(settings_of(namespace))) as client:
        params = show_project.localized(params)
        found = show_project.result(client.call(show_project, params, None, output.callbacks()))
        if found.file is None or found.sha256 is None:
            raise NotFound(f"cannot trust {found.repo_url or found.path}: it has no pyro.toml")
        if not namespace.yes or not output.as_json:
            render.show("show_project", found, output)
        if not namespace.yes and not _agreed():
            raise Cancelled("cannot trust the project: you did not agree")
        given = {**params, "sha256": found.sha256}
        answer = trust_project.result(client.call(trust_project, given, None, output.callbacks()))
    if output.as_json:
        output.document(encode(answer))
    else:
        render.show("trust_project", answer, output)
    return 0


def _agreed() -> bool:
    print("Let its workspaces have this? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
