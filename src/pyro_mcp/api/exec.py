"""Workspace exec: commands in a workspace, and what they said."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyro_mcp.api.params import (
    Command,
    Cursor,
    Cwd,
    EndCommand,
    Env,
    FollowSeconds,
    LogLimit,
    PageBytes,
    SecretEnv,
    Sequence,
    Stdin,
    TimeoutSeconds,
    UntilWhen,
    WaitSeconds,
    WorkspaceRef,
)
from pyro_mcp.model.workspace_exec import WorkspaceExec, WorkspaceLogs
from pyro_mcp.operations.inputs import narrowed
from pyro_mcp.operations.operation import Effects, operation

if TYPE_CHECKING:
    from pyro_mcp.engine.engine import Engine
    from pyro_mcp.operations.call import Call


@operation(cli=("workspace", "exec"), tool="workspace_exec", title="Run a command in a workspace", effects=Effects())
def exec_workspace(
    call: Call[Engine],
    workspace_id: WorkspaceRef,
    *,
    command: Command,
    cwd: Cwd | None = None,
    env: Env | None = None,
    timeout_seconds: TimeoutSeconds = 30,
    wait_seconds: WaitSeconds | None = None,
    secret_env: SecretEnv | None = None,
    stdin: Stdin = None,
) -> WorkspaceExec:
    """Run one command in a started workspace, in /workspace. A non-zero exit code is a result, not an error.

    What `cd` and `export` do ends with it: <<exec_workspace.cwd>> and <<exec_workspace.env>> say it for each command.

    Without <<exec_workspace.wait_seconds>> it is waited for, and ends if the caller goes away. With it, a command that
    is not done by then answers with state "running", its sequence and what came so far, and goes on by itself until
    <<exec_workspace.timeout_seconds>>: <<logs_workspace>> with that sequence follows it or ends it.
    """
    return call.engine.commands.exec(
        call,
        workspace_id,
        command=command,
        cwd=cwd,
        env=env,
        timeout_seconds=timeout_seconds,
        wait_seconds=wait_seconds,
        secret_env=secret_env,
        stdin=narrowed(stdin),
    )


@operation(
    cli=("workspace", "logs"),
    tool="workspace_logs",
    title="Show or follow the commands of a workspace",
    effects=Effects(idempotent=True),
)
def logs_workspace(
    call: Call[Engine],
    workspace_id: WorkspaceRef,
    *,
    sequence: Sequence | None = None,
    cursor: Cursor | None = None,
    wait_seconds: FollowSeconds | None = None,
    until: UntilWhen = "output",
    end: EndCommand = False,
    limit: LogLimit = 20,
    max_bytes: PageBytes = 1_048_576,
) -> WorkspaceLogs:
    """Show what was run in a workspace since its last reset, with the output.

    With <<logs_workspace.sequence>> only that command: from <<logs_workspace.cursor>> on, waiting up to
    <<logs_workspace.wait_seconds>> for more, or ended with <<logs_workspace.end>>. While `more` is true, its
    next_cursor reads on.
    """
    return call.engine.commands.logs(
        call,
        workspace_id,
        sequence=sequence,
        cursor=cursor,
        wait_seconds=wait_seconds,
        until=until,
        end=end,
        limit=limit,
        max_bytes=max_bytes,
    )
