"""The node's own verbs: `node_status` and `node_stop`. Neither goes through the engine's operations.

`node_stop` refuses while machines run, because without a node nobody ends them when their time is up. With `force`
it cancels the calls under way (their one-shot machines go with them) and powers the others off; their disks stay, and
the next node knows them as stopped.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyro_mcp.engine.fleet.pool import Pooled, size_of
from pyro_mcp.errors import Conflict, InvalidArgument, NotFound
from pyro_mcp.model.count import count_of
from pyro_mcp.model.node import NodeMachine, NodePooled, NodeStatus, NodeStopped
from pyro_mcp.operations.encode import encode
from pyro_mcp.store.machines import LIVE
from pyro_mcp.version import VERSION

if TYPE_CHECKING:
    from pyro_mcp.engine.fleet.fleet import MachineProcess
    from pyro_mcp.node.server import Node, Verbs
    from pyro_mcp.store.machines import MachineRow


def status(node: Node, params: Mapping[str, Any]) -> dict[str, Any]:
    """A `NodeStatus`."""
    machines = [_machine(live) for live in node.engine.fleet.list_processes()]
    return encode(
        NodeStatus(
            running=True,
            state_dir=str(node.settings.state_dir),
            pid=os.getpid(),
            version=VERSION,
            started_at=datetime.fromtimestamp(node.started_at, UTC),
            idle_seconds=int(node.settings.idle_seconds),
            resident_bytes=_memory(os.getpid())["Rss"],
            machine_count=len(machines),
            running_count=sum(machine.state in LIVE for machine in machines),
            max_machines=node.settings.max_machines,
            socket=str(node.paths.socket_path),
            client_count=node.client_count,
            memory_committed_mib=node.engine.fleet.committed_mib(),
            memory_limit_mib=node.settings.memory_limit_mib,
            machines=machines,
            pool_size=size_of(node.settings),
            pool=[_pooled(pooled) for pooled in node.engine.fleet.pool.waiting()],
        )
    )


def _pooled(pooled: Pooled) -> NodePooled:
    pid = pooled.ahead.pid if pooled.ahead else None
    memory = _memory(pid)
    return NodePooled(
        environment=pooled.environment,
        vcpu_count=pooled.spec.size.vcpu_count,
        mem_mib=pooled.spec.size.mem_mib,
        pid=pid,
        resident_bytes=memory["Rss"],
        proportional_bytes=memory["Pss"],
    )


def stop(node: Node, params: Mapping[str, Any]) -> dict[str, Any]:
    """A `NodeStopped`; the node leaves right after it. Raises `Conflict` while machines run, unless `force`; with
    `if_idle`, by which another node would take this one's place, also while there are stopped ones or other calls."""
    force, if_idle = _flag(params, "force"), _flag(params, "if_idle")
    if if_idle and node.call_count > 1:
        raise Conflict("cannot stop the node: it works for others", hint="Wait for the calls under way")
    rows = node.engine.fleet.rows()
    running = [row for row in rows if row.state in LIVE or row.one_shot]
    if if_idle and rows:
        raise _still_needed(node, f"it owns {count_of(len(rows), 'machine')}", rows, "Delete them")
    if running and not force:
        what = f"{count_of(len(running), 'machine')} {'runs' if len(running) == 1 else 'run'}"
        raise _still_needed(node, what, running, "Stop or delete them")
    node.hide()
    node.engine.stop_all()
    return encode(NodeStopped(stopped=True, machine_count=len(running)))


def _still_needed(node: Node, why: str, rows: list[MachineRow], way: str) -> Conflict:
    names = ", ".join(_owner(node, row) for row in rows[:5]) + (", ..." if len(rows) > 5 else "")
    return Conflict(
        f"cannot stop the node: {why} ({names})",
        hint=f"{way}, wait for the calls under way, or end all with `pyro node stop --force`",
    )


def _owner(node: Node, row: MachineRow) -> str:
    """What a machine is to the person who started it: a workspace by its name or id, or a machine by itself."""
    if row.workspace_id is None:
        return row.machine_id
    with contextlib.suppress(NotFound):
        return f"workspace {node.engine.registry.find(row.workspace_id).name or row.workspace_id}"
    return f"workspace {row.workspace_id}"


def _flag(params: Mapping[str, Any], name: str) -> bool:
    value = params.get(name, False)
    if not isinstance(value, bool):
        raise InvalidArgument(f"cannot stop the node: {name}: expected true or false, got {value!r:.40}")
    return value


def _machine(seen: MachineProcess) -> NodeMachine:
    memory = _memory(seen.pid)
    return NodeMachine(
        vm_id=seen.row.machine_id,
        environment=seen.row.environment,
        state=seen.row.state,
        workspace_id=seen.row.workspace_id,
        pid=seen.pid,
        mem_mib=seen.row.mem_mib,
        resident_bytes=memory["Rss"],
        proportional_bytes=memory["Pss"],
    )


def _memory(pid: int | None) -> dict[str, int | None]:
    """`Rss` and `Pss` of a process in bytes, None when it is gone or not ours to see. Read once, because it
    walks all pages, and a busy process makes one wait for that."""
    found: dict[str, int | None] = {"Rss": None, "Pss": None}
    if pid is not None:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                name, _, rest = line.partition(":")
                if name in found:
                    found[name] = int(rest.split()[0]) * 1024
    return found


VERBS: Verbs = {"node_status": status, "node_stop": stop}
