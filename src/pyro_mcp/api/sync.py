"""Sync: bring more of the host into a workspace after its creation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pyro_mcp.api.params import WorkspaceRef
from pyro_mcp.model.sync import SyncResult
from pyro_mcp.operations.fields import Param
from pyro_mcp.operations.operation import Effects, operation

if TYPE_CHECKING:
    from pyro_mcp.engine.engine import Engine
    from pyro_mcp.operations.call import Call

SourcePath = Annotated[
    str,
    Param(
        help="directory, .tar, .tar.gz, .tgz or other file of this host",
        min_length=1,
        max_length=4096,
        metavar="SOURCE",
        cli="positional",
        host_path=True,
    ),
]
Dest = Annotated[
    str,
    Param(help="directory under /workspace to put it into", min_length=1, max_length=4096, metavar="PATH"),
]


@operation(cli=("workspace", "sync", "push"), tool="workspace_sync_push", title="Copy from the host", effects=Effects())
def push_workspace_sync(
    call: Call[Engine], workspace_id: WorkspaceRef, source_path: SourcePath, *, dest: Dest = "/workspace"
) -> SyncResult:
    """Copy a directory, an archive or a file of the host into the workspace, all of it or nothing.

    An archive is unpacked, any other file keeps its name. Directories are merged, equal files left alone. Links are
    stored, not followed; sockets, pipes and devices are left out and listed.
    """
    return call.engine.files.push(call, workspace_id, source_path, dest)
