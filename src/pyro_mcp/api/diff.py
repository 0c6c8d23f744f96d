"""Diff: what has become of a workspace since it was created."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyro_mcp.api.params import WorkspaceRef
from pyro_mcp.model.diff import DiffResult
from pyro_mcp.operations.operation import Effects, operation

if TYPE_CHECKING:
    from pyro_mcp.engine.engine import Engine
    from pyro_mcp.operations.call import Call


@operation(
    cli=("workspace", "diff"),
    tool="workspace_diff",
    title="Show what changed",
    effects=Effects(read_only=True, idempotent=True),
)
def diff_workspace(call: Call[Engine], workspace_id: WorkspaceRef) -> DiffResult:
    """Compare the live /workspace with its baseline, what it started with.

    A renamed directory shows as old files deleted and new ones added. The patch is what `git apply` takes.
    Changes that text cannot say, such as binary files, are listed with the reason.
    """
    return call.engine.files.diff(call, workspace_id)
