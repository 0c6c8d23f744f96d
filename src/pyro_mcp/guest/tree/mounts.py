"""mounts: what somebody in the guest has mounted below the workspace.

Verbs that read the tree as a whole would see another one there than commands do, or a /proc without end: they refuse.
"""

from __future__ import annotations

import re

from pyro_mcp.guest.errors import AgentError
from pyro_mcp.guest.tree.paths import Tree, absolute, show

_ESCAPED = re.compile(rb"\\([0-7]{3})")


def require_none(verb: str, tree: Tree, parts: list[bytes]) -> None:
    """Raise `AgentError` when something is mounted at or below `parts`, the workspace itself left aside."""
    top = b"/".join([tree.real, *parts])
    for point in _points():
        if point != tree.real and (point == top or point.startswith(top + b"/")):
            there = show(absolute([point[len(tree.real) + 1 :]]))
            raise AgentError(
                "conflict",
                f"cannot {verb} {show(absolute(parts))}: something is mounted on {there}",
                "Unmount it with a command; or mount it outside /workspace.",
            )


def _points() -> list[bytes]:
    with open("/proc/self/mountinfo", "rb") as file:
        raw = [line.split(b" ", 5)[4] for line in file.read().splitlines()]
    return [_ESCAPED.sub(lambda match: bytes([int(match[1], 8)]), point) for point in raw]
