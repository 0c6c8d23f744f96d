"""Opening: from a workspace's id or name to a place that can be worked in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyro_mcp.engine.agent import Place
from pyro_mcp.engine.workspaces.seed import IMAGE

if TYPE_CHECKING:
    from pyro_mcp.engine.engine import Engine
    from pyro_mcp.operations.call import Call


def opened(call: Call[Engine], ref: str) -> Place:
    """The place that the workspace `ref` is now. Raises `NotFound`, or `Conflict` when it does not run."""
    engine = call.engine
    row = engine.lifecycle.find(ref)

    def note(kind: str, detail: dict[str, Any]) -> None:
        engine.faults(f"{kind} done")
        engine.lifecycle.note(row.workspace_id, kind, detail, call.notice)
        engine.faults(f"{kind} noted")

    machine, masks = engine.lifecycle.live(call, row), engine.secrets.masks(row.workspace_id)
    image = engine.lifecycle.directory(row.workspace_id) / IMAGE
    seed = image if machine.capabilities.overlay and image.exists() else None
    return Place(row.workspace_id, machine, note, engine.lifecycle.outgoing.announced, masks, seed)
