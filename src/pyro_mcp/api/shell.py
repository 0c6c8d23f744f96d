"""Shell: terminals in a workspace that stay open between calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pyro_mcp.api.params import Cwd, Env, PageLimit, PageOffset, SecretEnv, WorkspaceRef
from pyro_mcp.model.page import paged
from pyro_mcp.model.shell import (
    SIDE_MAX,
    Shell,
    ShellAttached,
    ShellClosed,
    ShellList,
    ShellRead,
    ShellSignalled,
    ShellWritten,
)
from pyro_mcp.operations.fields import Param
from pyro_mcp.operations.inputs import Input as CommandInput
from pyro_mcp.operations.inputs import narrowed
from pyro_mcp.operations.operation import Effects, operation

if TYPE_CHECKING:
    from pyro_mcp.engine.engine import Engine
    from pyro_mcp.operations.call import Call

ShellId = Annotated[
    str,
    Param(
        help="shell id from <<open_shell>>",
        pattern=r"^sh-[0-9a-f]{12}$",
        rule="an id such as sh-0123456789ab",
        metavar="S",
        cli="positional",
    ),
]
Cols = Annotated[int, Param(help="width of the terminal in characters", ge=1, le=SIDE_MAX, metavar="N")]
Rows = Annotated[int, Param(help="height of the terminal in lines", ge=1, le=SIDE_MAX, metavar="N")]
ShellCursor = Annotated[
    int, Param(help="where to read on, the next_cursor of an earlier answer; 0 is the beginning", ge=0, metavar="N")
]
MaxChars = Annotated[
    int, Param(help="most to answer with", ge=1, le=1_048_576, metavar="N", tool_max=8_000, flag="--max-chars")
]
Plain = Annotated[
    bool,
    Param(help="what a person sees instead of what was sent: no escape codes, overwritten progress as it is now"),
]
WaitForIdleMs = Annotated[
    int, Param(help="answer once nothing has been said for so long", ge=0, le=10_000, metavar="MS")
]
WaitSeconds = Annotated[
    int,
    Param(
        help="wait at most so long: for the shell to be quiet (then 30 unless given), or without"
        " <<read_shell.wait_for_idle_ms>> for something past the cursor",
        ge=0,
        le=50,
        metavar="S",
    ),
]
Input = Annotated[
    str,
    Param(help="what to type; U+0003 is Ctrl-C, and so on", max_length=262_144, metavar="TEXT"),
]
AppendNewline = Annotated[bool, Param(help="press Return after the input", flag="--no-newline")]
SignalName = Annotated[
    str,
    Param(
        help="signal for what runs in the foreground, such as INT, TERM or KILL",
        max_length=64,
        flag="--signal",
        metavar="NAME",
    ),
]

Keys = Annotated[
    CommandInput | None,
    Param(help="what to type, as it comes", cli="never", tool="never", stream=True),
]


@operation(
    cli=("workspace", "shell", "open"), tool="shell_open", title="Open a shell", effects=Effects(), id_field="shell_id"
)
def open_shell(
    call: Call[Engine],
    workspace_id: WorkspaceRef,
    *,
    cwd: Cwd = "/workspace",
    cols: Cols = 120,
    rows: Rows = 30,
    env: Env | None = None,
    secret_env: SecretEnv | None = None,
) -> Shell:
    """Open a terminal with a shell in it, which stays until it is closed, exits, or the workspace stops.

    Use it for what wants a terminal or keeps state between calls; for a single command <<exec_workspace>> is simpler.
    """
    return call.engine.shells.open(call, workspace_id, cwd=cwd, cols=cols, rows=rows, env=env, secret_env=secret_env)


@operation(
    cli=("workspace", "shell", "list"),
    tool="shell_list",
    title="List shells",
    effects=Effects(read_only=True, idempotent=True),
)
def list_shells(
    call: Call[Engine], workspace_id: WorkspaceRef, *, limit: PageLimit = 1000, offset: PageOffset = 0
) -> ShellList:
    """List the shells of a workspace, ended ones too, as long as its machine runs."""
    return paged(call.engine.shells.listing(call, workspace_id), "shells", limit, offset)


@operation(
    cli=("workspace", "shell", "read"),
    tool="shell_read",
    title="Read a shell",
    effects=Effects(read_only=True, idempotent=True),
)
def read_shell(
    call: Call[Engine],
    workspace_id: WorkspaceRef,
    shell_id: ShellId,
    *,
    cursor: ShellCursor = 0,
    max_chars: MaxChars = 65536,
    plain: Plain = False,
    wait_for_idle_ms: WaitForIdleMs | None = None,
    wait_seconds: WaitSeconds | None = None,
) -> ShellRead:
    """Read what a shell has said from <<read_shell.cursor>> on; pass next_cursor to read on.

    With <<read_shell.wait_for_idle_ms>> it waits until the shell has been quiet for so long: usually the command is
    done then. The last megabyte is kept. With <<read_shell.plain>>, lines that changed since the cursor are shown as
    they are now.
    """
    return call.engine.shells.read(
        call,
        workspace_id,
        shell_id,
        cursor=cursor,
        max_chars=max_chars,
        plain=plain,
        wait_for_idle_ms=wait_for_idle_ms,
        wait_seconds=wait_seconds,
    )


@operation(cli=("workspace", "shell", "write"), tool="shell_write", title="Type into a shell", effects=Effects())
def write_shell(
    call: Call[Engine],
    workspace_id: WorkspaceRef,
    shell_id: ShellId,
    *,
    input: Input,
    append_newline: AppendNewline = True,
) -> ShellWritten:
    """Type into a shell, as a person would. <<read_shell>> returns its output."""
    return call.engine.shells.write(call, workspace_id, shell_id, text=input, append_newline=append_newline)


@operation(cli=("workspace", "shell", "signal"), tool="shell_signal", title="Signal a shell", effects=Effects())
def signal_shell(
    call: Call[Engine], workspace_id: WorkspaceRef, shell_id: ShellId, *, signal_name: SignalName = "INT"
) -> ShellSignalled:
    """Send a signal to the processes in a shell's foreground."""
    return call.engine.shells.signal(call, workspace_id, shell_id, signal_name=signal_name)


@operation(cli=("workspace", "shell", "resize"), effects=Effects(idempotent=True))
def resize_shell(
    call: Call[Engine], workspace_id: WorkspaceRef, shell_id: ShellId, *, cols: Cols = 120, rows: Rows = 30
) -> Shell:
    """Give a shell's terminal another size."""
    return call.engine.shells.resize(call, workspace_id, shell_id, cols=cols, rows=rows)


@operation(
    cli=("workspace", "shell", "close"),
    tool="shell_close",
    title="Close a shell",
    effects=Effects(destructive=True, idempotent=True),
)
def close_shell(call: Call[Engine], workspace_id: WorkspaceRef, shell_id: ShellId) -> ShellClosed:
    """End a shell and everything in its session. What it said last can still be read."""
    return call.engine.shells.close(call, workspace_id, shell_id)


@operation(cli=("workspace", "shell", "attach"), effects=Effects())
def attach_shell(
    call: Call[Engine],
    workspace_id: WorkspaceRef,
    shell_id: ShellId,
    *,
    cursor: ShellCursor | None = None,
    stdin: Keys = None,
) -> ShellAttached:
    """Be at a shell's terminal: stdin is typed as it comes, output is live, until stdin or the shell ends.

    Without <<attach_shell.cursor>> the end of the earlier output comes first. The shell waits for a reader that is
    slow.
    """
    return call.engine.shells.attach(call, workspace_id, shell_id, cursor=cursor, stdin=narrowed(stdin))
