"""Node results: the small process that owns the machines.

The node answers two verbs of its own beside the operations: `node_status` with a `NodeStatus` and `node_stop`, which
takes `force`, with a `NodeStopped`, after which it exits. Neither ever starts a node.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from pyro_mcp.model.result import Result


@dataclass(frozen=True, kw_only=True)
class NodeMachine(Result):
    """One machine as the node sees its process: memory in bytes, null when it has no process.

    `proportional_bytes` counts each shared page by the number of those who share it, so it is what the machine costs.
    `workspace_id` names the workspace that lives in it.
    """

    vm_id: str
    environment: str
    state: str
    mem_mib: int
    workspace_id: str | None = None
    pid: int | None = None
    resident_bytes: int | None = None
    proportional_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class NodePooled(Result):
    """One machine that was restored ahead and is nobody's yet; memory as in `NodeMachine`."""

    environment: str
    vcpu_count: int
    mem_mib: int
    pid: int | None = None
    resident_bytes: int | None = None
    proportional_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class NodeStatus(Result):
    """`running` is false, and the rest null, when there is no node for this state directory.

    Of `machine_count` machines `running_count` run; the others are stopped and only take up disk.
    `resident_bytes` is the node's own memory, without its machines; `idle_seconds` is how long it stays with nothing
    to do. `pool` are machines that wait to be handed out, at most `pool_size` of each kind; `memory_committed_mib` is
    without theirs, because they give way.
    """

    running: bool
    state_dir: str
    pid: int | None = None
    version: str | None = None
    started_at: datetime | None = None
    idle_seconds: int | None = None
    resident_bytes: int | None = None
    machine_count: int | None = None
    running_count: int | None = None
    max_machines: int | None = None
    socket: str | None = None
    client_count: int | None = None
    memory_committed_mib: int | None = None
    memory_limit_mib: int | None = None
    machines: list[NodeMachine] = field(default_factory=list)
    pool_size: int | None = None
    pool: list[NodePooled] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class NodeStopped(Result):
    """`stopped` is false when there was no node. `machine_count` machines were ended with it:
    one-shot ones deleted, others powered off with their disks kept. Those that had been stopped before do not count."""

    stopped: bool
    machine_count: int = 0
