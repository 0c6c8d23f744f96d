"""Seeds: the content a workspace starts with, made into the read-only image that is its baseline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pyro_mcp.errors import Unsupported
from pyro_mcp.model.workspace import WorkspaceSeed
from pyro_mcp.operations.call import Call

if TYPE_CHECKING:
    from pyro_mcp.workspaces.engine import Engine


def plant(call: Call[Engine], directory: Path, seed_path: str | None) -> WorkspaceSeed:
    """Make `seed_path` the baseline kept in `directory`; nothing to do for a workspace that starts empty."""
    if seed_path is not None:
        raise Unsupported("cannot seed a workspace: this version of pyro cannot yet", hint="Leave `seed_path` out")
    return WorkspaceSeed()
