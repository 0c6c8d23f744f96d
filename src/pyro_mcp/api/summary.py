"""Summary: one page on what happened in a workspace."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyro_mcp.api.params import WorkspaceRef
from pyro_mcp.model.summary import WorkspaceSummary
from pyro_mcp.operations.operation import Effects, operation

if TYPE_CHECKING:
    from pyro_mcp.engine.engine import Engine
    from pyro_mcp.operations.call import Call


@operation(
    cli=("workspace", "summary"),
    tool="workspace_summary",
    title="Sum up a workspace",
    effects=Effects(read_only=True, idempotent=True),
)
def summarize_workspace(call: Call[Engine], workspace_id: WorkspaceRef) -> WorkspaceSummary:
    """Show on one page what happened in a workspace since its last reset, for whoever reviews the work.

    What ran, failures first; what changed; what was written, imported and exported.
    """
    return call.engine.summaries.summarize(call, workspace_id)
