"""Snapshot: checkpoints of a workspace, and going back to one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pyro_mcp.api.params import PageLimit, PageOffset, WorkspaceRef
from pyro_mcp.model.names import BASELINE, SNAPSHOT_NAME, SNAPSHOT_RULE
from pyro_mcp.model.page import paged
from pyro_mcp.model.snapshot import SnapshotCreated, SnapshotDeleted, SnapshotList
from pyro_mcp.model.workspace import ResetWorkspace
from pyro_mcp.operations.fields import Param
from pyro_mcp.operations.operation import Effects, operation

if TYPE_CHECKING:
    from pyro_mcp.engine.engine import Engine
    from pyro_mcp.operations.call import Call

SnapshotName = Annotated[
    str,
    Param(
        help="name of the snapshot",
        pattern=SNAPSHOT_NAME,
        rule=SNAPSHOT_RULE,
        metavar="NAME",
        cli="positional",
    ),
]
ResetTo = Annotated[
    str, Param(help="snapshot to go back to", pattern=SNAPSHOT_NAME, rule=SNAPSHOT_RULE, metavar="NAME")
]


@operation(
    cli=("workspace", "snapshot", "create"), tool="snapshot_create", title="Create a snapshot", effects=Effects()
)
def create_snapshot(call: Call[Engine], workspace_id: WorkspaceRef, snapshot_name: SnapshotName) -> SnapshotCreated:
    """Keep the present state of /workspace under a name, to reset to later.

    It costs what differs from the baseline. Files being written meanwhile are kept as they are at that moment; the
    answer names them, and what no snapshot holds: FIFOs, sockets, devices.
    """
    return call.engine.snapshots.create(call, workspace_id, snapshot_name)


@operation(
    cli=("workspace", "snapshot", "list"),
    tool="snapshot_list",
    title="List snapshots",
    effects=Effects(read_only=True, idempotent=True),
)
def list_snapshots(
    call: Call[Engine], workspace_id: WorkspaceRef, *, limit: PageLimit = 1000, offset: PageOffset = 0
) -> SnapshotList:
    """List the snapshots of a workspace, the baseline first."""
    return paged(call.engine.snapshots.listing(workspace_id), "snapshots", limit, offset)


@operation(
    cli=("workspace", "snapshot", "delete"),
    tool="snapshot_delete",
    title="Delete a snapshot",
    effects=Effects(destructive=True),
)
def delete_snapshot(call: Call[Engine], workspace_id: WorkspaceRef, snapshot_name: SnapshotName) -> SnapshotDeleted:
    """Delete a snapshot. The workspace itself stays as it is."""
    return call.engine.snapshots.delete(workspace_id, snapshot_name)


@operation(
    cli=("workspace", "reset"),
    tool="workspace_reset",
    title="Reset a workspace",
    effects=Effects(destructive=True, idempotent=True),
)
def reset_workspace(call: Call[Engine], workspace_id: WorkspaceRef, *, snapshot: ResetTo = BASELINE) -> ResetWorkspace:
    """Throw the whole sandbox away, build it again, and restore /workspace from a snapshot.

    What ran in it ends, what was installed in it is gone, and its command history is cleared.
    """
    return call.engine.snapshots.reset(call, workspace_id, snapshot)
