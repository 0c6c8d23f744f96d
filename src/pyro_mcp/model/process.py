"""Process results: what one command did."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pyro_mcp.model.network import NetworkRefusal
from pyro_mcp.model.result import Result

ExecutionMode = Literal["guest", "host_compat"]
"""`guest`: inside a machine with its own kernel. `host_compat`: a plain process of this host, by explicit opt-in."""

Isolation = Literal["kvm-firecracker", "kvm-qemu", "gvisor", "emulated", "none"]
"""What stood between the command and this host. `none` goes with `host_compat`."""


@dataclass(frozen=True, kw_only=True)
class CommandResult(Result):
    """A finished command.

    `command` is the words as a shell would need them quoted. `exit_code` is the command's own, 128+n when signal n
    ended it (then `signal` names it, such as `SIGKILL`), 124 when `timed_out`, 127 when it was not found, 126 when it
    cannot be executed. Each stream keeps its first and last part up to a bound; `truncated` says that something was
    left out, the `..._dropped_bytes` how much. `network_refusals` are what the network policy refused while it ran, the
    first 32 different ones. `encoding_lossy` says that output was not UTF-8 and bytes were replaced. `hint` is what may
    help where it failed for lack of a network or of a program.
    """

    command: str
    exit_code: int
    duration_ms: int
    execution_mode: ExecutionMode
    isolation: Isolation
    signal: str | None = None
    timed_out: bool = False
    truncated: bool = False
    stdout_dropped_bytes: int = 0
    stderr_dropped_bytes: int = 0
    encoding_lossy: bool = False
    stdout: str = ""
    stderr: str = ""
    network_refusals: list[NetworkRefusal] = field(default_factory=list)
    hint: str | None = None


@dataclass(frozen=True, kw_only=True)
class Cleanup(Result):
    """What became of the machine after the command: `reason` says why it was deleted or why it could not be."""

    deleted: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class RunResult(CommandResult):
    """A command in a machine of its own, which is gone afterwards. `cwd` is where in it the command ran."""

    vm_id: str
    cwd: str
    environment: str
    cleanup: Cleanup
