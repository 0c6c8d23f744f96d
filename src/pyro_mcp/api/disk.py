"""Disk: look into a stopped workspace without starting it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pyro_mcp.api.export import Output
from pyro_mcp.api.file import MaxBytes
from pyro_mcp.api.params import WorkspacePath, WorkspaceRef
from pyro_mcp.model.disk import DiskExport
from pyro_mcp.model.file import FileContent, FileList
from pyro_mcp.operations.fields import Param
from pyro_mcp.operations.operation import Effects, operation

if TYPE_CHECKING:
    from pyro_mcp.engine.engine import Engine
    from pyro_mcp.operations.call import Call

_READ = Effects(read_only=True, idempotent=True)
Recursive = Annotated[bool, Param(help="also what is in directories below")]
Limit = Annotated[int, Param(help="how many names to list at most", ge=1, le=10_000, metavar="N", tool_max=100)]


@operation(
    cli=("workspace", "disk", "export"),
    tool="workspace_disk_export",
    title="Copy a stopped workspace's disk",
    effects=Effects(open_world=True),
)
def export_workspace_disk(call: Call[Engine], workspace_id: WorkspaceRef, *, output: Output) -> DiskExport:
    """Copy the disk of a stopped workspace to a new file, a raw ext4 image, without starting the guest.

    What a guest has only while it runs and the content of deleted files are removed from the copy.
    """
    return call.engine.offline_disk.export(call, workspace_id, output)


@operation(
    cli=("workspace", "disk", "list"),
    tool="workspace_disk_list",
    title="List a stopped workspace's files",
    effects=_READ,
)
def list_workspace_disk(
    call: Call[Engine],
    workspace_id: WorkspaceRef,
    path: WorkspacePath = "/workspace",
    *,
    recursive: Recursive = False,
    limit: Limit = 1000,
) -> FileList:
    """List files of a stopped workspace, without starting the guest. Links are shown and not followed."""
    return call.engine.offline_disk.list(call, workspace_id, path, recursive=recursive, limit=limit)


@operation(
    cli=("workspace", "disk", "read"),
    tool="workspace_disk_read",
    title="Read a stopped workspace's file",
    effects=_READ,
    text_field="content",
)
def read_workspace_disk(
    call: Call[Engine], workspace_id: WorkspaceRef, path: WorkspacePath, *, max_bytes: MaxBytes = 65_536
) -> FileContent:
    """Read the beginning of a text file of a stopped workspace, without starting the guest."""
    return call.engine.offline_disk.read(call, workspace_id, path, max_bytes=max_bytes)
