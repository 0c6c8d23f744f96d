"""workspace: the file verbs of one tree, as a table for the dispatcher."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyro_mcp.guest.dispatch import Verb
from pyro_mcp.guest.tree.apply import tree_apply
from pyro_mcp.guest.tree.changes import changes
from pyro_mcp.guest.tree.files import AgentFiles
from pyro_mcp.guest.tree.layers import Layers
from pyro_mcp.guest.tree.pack import tree_pack
from pyro_mcp.guest.tree.paths import Tree
from pyro_mcp.guest.tree.search import Search
from pyro_mcp.guest.tree.unpack import tree_unpack
from pyro_mcp.protocol.channel import Stream


def verbs(tree: Tree, layers: Callable[[], Layers], ready: Callable[[str], None]) -> dict[str, Verb]:
    """The verbs on `tree`; `ready(verb)` raises while there is no workspace."""
    files = AgentFiles(tree)
    table: dict[str, Callable[[Stream], dict[str, Any]]] = {
        "file_list": files.list,
        "file_read": files.read,
        "file_lines": files.lines,
        "file_write": files.write,
        "file_search": Search(tree).search,
        "tree_apply": lambda stream: tree_apply(tree, stream),
        "tree_pack": lambda stream: tree_pack(tree, stream),
        "tree_unpack": lambda stream: tree_unpack(tree, stream),
        "changes": lambda stream: changes(layers(), stream),
    }
    return {name: _guarded(verb, ready) for name, verb in table.items()}


def _guarded(verb: Callable[[Stream], dict[str, Any]], ready: Callable[[str], None]) -> Verb:
    def guarded(stream: Stream) -> dict[str, Any]:
        ready(stream.verb)
        return verb(stream)

    return guarded
