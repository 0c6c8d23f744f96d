"""`pyro node`: look at the process that owns the machines, or stop it. Neither starts one."""

from __future__ import annotations

import argparse

from pyro_mcp.model.node import NodeStatus, NodeStopped
from pyro_mcp.surfaces.cli.invoke import settings_of
from pyro_mcp.surfaces.cli.output import Output
from pyro_mcp.surfaces.cli.parser import Parser, add_leaf, common_options


def configure(parser: argparse.ArgumentParser) -> None:
    """Add `status` and `stop`."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=Parser)
    status = add_leaf(commands, "status", show_status, "show whether a node runs, and what it holds")
    common_options(status)
    stop = add_leaf(commands, "stop", stop_node, "stop the node; refused while machines run, unless --force")
    stop.add_argument(
        "--force",
        action="store_true",
        help="also while machines run: workspaces are powered off, and their disks and snapshots stay; what runs in"
        " them ends, and machines for one command are deleted",
    )
    common_options(stop)


def show_status(namespace: argparse.Namespace) -> int:
    """Exit code 0 when a node runs, 3 when none does, as service managers answer."""
    from pyro_mcp.operations.encode import decode, encode
    from pyro_mcp.surfaces.client import call_running_node

    settings = settings_of(namespace)
    payload = call_running_node(settings, "node_status")
    if payload is None:
        payload = encode(NodeStatus(running=False, state_dir=str(settings.state_dir)))
    _answer(namespace.output, "node_status", payload, decode(payload, NodeStatus))
    return 0 if payload.get("running") else 3


def stop_node(namespace: argparse.Namespace) -> int:
    """Exit code 0, also when there was nothing to stop."""
    from pyro_mcp.operations.encode import decode, encode
    from pyro_mcp.surfaces.client import call_running_node

    payload = call_running_node(settings_of(namespace), "node_stop", {"force": namespace.force})
    if payload is None:
        payload = encode(NodeStopped(stopped=False))
    _answer(namespace.output, "node_stop", payload, decode(payload, NodeStopped))
    return 0


def _answer(output: Output, verb: str, payload: dict[str, object], result: object) -> None:
    if output.as_json:
        output.document(payload)
        return
    from pyro_mcp.surfaces.cli import render

    render.show(verb, result, output)
