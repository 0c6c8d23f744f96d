"""Patch: change several files of a workspace as one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pyro_mcp.api.params import WorkspaceRef
from pyro_mcp.model.patch import PatchResult
from pyro_mcp.operations.fields import Param
from pyro_mcp.operations.operation import Effects, operation

if TYPE_CHECKING:
    from pyro_mcp.engine.engine import Engine
    from pyro_mcp.operations.call import Call

Patch = Annotated[
    str,
    Param(
        help="unified diff, paths relative to /workspace, with or without a/ and b/",
        min_length=1,
        max_length=8 * 1024 * 1024,
        metavar="TEXT",
        file_flag="--patch-file",
    ),
]


@operation(cli=("workspace", "patch", "apply"), tool="workspace_patch_apply", title="Apply a patch", effects=Effects())
def apply_workspace_patch(call: Call[Engine], workspace_id: WorkspaceRef, *, patch: Patch) -> PatchResult:
    """Apply a unified diff to the workspace, all of it or nothing.

    Files may be added, changed, deleted and renamed, and their modes changed. Lines may have moved; a hunk that does
    not fit is named with what stands there instead.
    """
    return call.engine.files.patch(call, workspace_id, patch)
