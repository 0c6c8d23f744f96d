"""Shell results: terminals in a workspace, and what they said."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pyro_mcp.model.page import ListPage
from pyro_mcp.model.process import ExecutionMode, Isolation
from pyro_mcp.model.result import Result

ShellState = Literal["running", "exited", "closed"]
SIDE_MAX = 1000
SIGNALS = (
    *("HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM"),
    *("TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF"),
    *("WINCH", "IO", "PWR", "SYS"),
)


@dataclass(frozen=True, kw_only=True)
class Shell(Result):
    """A shell in a terminal of `cols` by `rows`, started in `cwd`.

    `state`: `running`; `exited` by itself, with its `exit_code` (128+n when signal n ended it); `closed` on request.
    An exited one can still be read. All end with the workspace's machine.
    """

    workspace_id: str
    shell_id: str
    cwd: str
    cols: int
    rows: int
    state: ShellState
    started_at: datetime
    ended_at: datetime | None
    exit_code: int | None
    execution_mode: ExecutionMode
    isolation: Isolation


@dataclass(frozen=True, kw_only=True)
class ShellRead(Shell):
    """Output of a shell from `cursor` on; `next_cursor` is where to read on. Cursors count bytes from the first.

    `truncated`: not all of it is here. Either `missed_bytes` were no longer kept, or there is `more` to be read on from
    `next_cursor`. `encoding_lossy`: it was not UTF-8 and bytes were replaced.
    """

    cursor: int
    next_cursor: int
    plain: bool
    wait_for_idle_ms: int | None
    truncated: bool
    missed_bytes: int
    more: bool
    encoding_lossy: bool
    output: str


@dataclass(frozen=True, kw_only=True)
class ShellWritten(Shell):
    """What was typed: `input_length` characters, the newline included."""

    input_length: int
    append_newline: bool


@dataclass(frozen=True, kw_only=True)
class ShellSignalled(Shell):
    """A signal was sent to the processes in the foreground."""

    signal_name: str


@dataclass(frozen=True, kw_only=True)
class ShellClosed(Shell):
    """The shell and everything in its session have ended. `already_closed`: it had been closed before."""

    closed: bool
    already_closed: bool


@dataclass(frozen=True, kw_only=True)
class ShellAttached(Shell):
    """A person was attached. `detached`: the person left before the shell ended."""

    detached: bool
    missed_bytes: int


@dataclass(frozen=True, kw_only=True)
class ShellList(ListPage):
    """The shells of a workspace, the oldest first. Iterating goes over them."""

    workspace_id: str
    shells: list[Shell]

    def __iter__(self) -> Iterator[Shell]:
        return iter(self.shells)

    def __len__(self) -> int:
        return len(self.shells)
