"""Export: take a file or a directory out of a workspace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pyro_mcp.api.params import WorkspacePath, WorkspaceRef
from pyro_mcp.model.export import ExportResult
from pyro_mcp.operations.fields import Param
from pyro_mcp.operations.operation import Effects, operation

if TYPE_CHECKING:
    from pyro_mcp.engine.engine import Engine
    from pyro_mcp.operations.call import Call

Output = Annotated[
    str,
    Param(
        help="new path of this host; what exists is never overwritten",
        min_length=1,
        max_length=4096,
        metavar="HOST_PATH",
        host_path=True,
        host_output=True,
    ),
]


@operation(
    cli=("workspace", "export"),
    tool="workspace_export",
    title="Copy to the host",
    effects=Effects(open_world=True),
)
def export_workspace(
    call: Call[Engine], workspace_id: WorkspaceRef, path: WorkspacePath, *, output: Output
) -> ExportResult:
    """Copy one file or directory of the workspace to a new path of the host, whole or not at all.

    Setuid bits and write permission for others are removed; links that lead out are left out and listed. Look at the
    files in `can_run` before working there: a program of the host may execute or obey them.
    """
    return call.engine.files.export(call, workspace_id, path, output)
