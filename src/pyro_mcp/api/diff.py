"""Diff: what has become of a workspace since it was created."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pyro_mcp.api.params import WorkspaceRef
from pyro_mcp.model.diff import DiffResult
from pyro_mcp.operations.fields import Param
from pyro_mcp.operations.operation import Effects, operation

if TYPE_CHECKING:
    from pyro_mcp.engine.engine import Engine
    from pyro_mcp.operations.call import Call

DiffPaths = Annotated[
    list[str],
    Param(
        help="only what changed at or below these paths under /workspace",
        max_length=256,
        metavar="PATH",
        cli="positional",
    ),
]
Exclude = Annotated[
    list[str],
    Param(help="leave out what this pattern matches, written as in a .gitignore", max_length=256, metavar="PATTERN"),
]
Stat = Annotated[bool, Param(help="counts by file, without the patch")]
Ignored = Annotated[bool, Param(help="show new files that a .gitignore names, too")]
DiffCursor = Annotated[str, Param(help="read on: the next_cursor of the answer before", max_length=8192, cli="never")]
MaxChars = Annotated[
    int,
    Param(
        help="most characters of entries and patch in one answer",
        ge=200,
        le=24 * 1024 * 1024,
        tool_max=8_000,
        cli="never",
    ),
]


@operation(
    cli=("workspace", "diff"),
    tool="workspace_diff",
    title="Show what changed",
    effects=Effects(read_only=True, idempotent=True),
)
def diff_workspace(
    call: Call[Engine],
    workspace_id: WorkspaceRef,
    *,
    paths: DiffPaths | None = None,
    exclude: Exclude | None = None,
    stat: Stat = False,
    ignored: Ignored = False,
    cursor: DiffCursor | None = None,
    max_chars: MaxChars = 24 * 1024 * 1024,
) -> DiffResult:
    """Compare the live /workspace with its baseline, what it started with.

    The patch is what `git apply` takes.
    Changes that text cannot say, such as binary files, are listed with the reason; what git keeps in .git is one of
    them. New files that a .gitignore names are only counted.
    """
    return call.engine.files.diff(
        call,
        workspace_id,
        paths=paths,
        exclude=exclude,
        stat=stat,
        ignored=ignored,
        cursor=cursor,
        max_chars=max_chars,
    )
