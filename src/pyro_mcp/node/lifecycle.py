"""The node's own verbs: `node_status` and `node_stop`. Neither goes through the engine's operations.

`node_stop` refuses while machines exist, because without a node nobody ends them when their time is up. With `force`
it cancels the calls under way (their one-shot machines go with them) and powers the others off; their disks stay, and
the next node knows them as stopped.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyro_mcp.errors import Conflict, InvalidArgument
from pyro_mcp.model.count import count_of
from pyro_mcp.model.node import NodeMachine, NodeStatus, NodeStopped
from pyro_mcp.operations.encode import encode
from pyro_mcp.version import VERSION

if TYPE_CHECKING:
    from pyro_mcp.node.server import Node, Verbs


def status(node: Node, params: Mapping[str, Any]) -> dict[str, Any]:
    """A `NodeStatus`."""
    machines = [
        NodeMachine(
            vm_id=live.row.machine_id,
            environment=live.row.environment,
            state=live.row.state,
            workspace_id=live.row.workspace_id,
            pid=live.pid,
            mem_mib=live.row.mem_mib,
            resident_bytes=memory_bytes(live.pid, "Rss"),
            proportional_bytes=memory_bytes(live.pid, "Pss"),
        )
        for live in node.engine.fleet.census()
    ]
    return encode(
        NodeStatus(
            running=True,
            state_dir=str(node.settings.state_dir),
            pid=os.getpid(),
            version=VERSION,
            started_at=datetime.fromtimestamp(node.started_at, UTC),
            idle_seconds=int(node.settings.idle_seconds),
            resident_bytes=memory_bytes(os.getpid(), "Rss"),
            machine_count=len(machines),
            max_machines=node.settings.max_machines,
            socket=str(node.place.socket_path),
            client_count=node.client_count,
            memory_committed_mib=node.engine.fleet.committed_mib(),
            memory_limit_mib=node.settings.memory_limit_mib,
            machines=machines,
        )
    )


def stop(node: Node, params: Mapping[str, Any]) -> dict[str, Any]:
    """A `NodeStopped`; the node leaves right after it. Raises `Conflict` while machines exist, unless `force`."""
    force = params.get("force", False)
    if not isinstance(force, bool):
        raise InvalidArgument(f"cannot stop the node: force: expected true or false, got {force!r:.40}")
    rows = node.engine.fleet.rows()
    if rows and not force:
        names = ", ".join(row.machine_id for row in rows[:5]) + (", ..." if len(rows) > 5 else "")
        raise Conflict(
            f"cannot stop the node: it owns {count_of(len(rows), 'machine')} ({names})",
            hint="Delete them, wait for the calls under way, or end all with `pyro node stop --force`",
        )
    node.hide()
    node.engine.stop_all()
    return encode(NodeStopped(stopped=True, machine_count=len(rows)))


def memory_bytes(pid: int | None, kind: str) -> int | None:
    """`Rss` or `Pss` of a process in bytes, None when it is gone or not ours to see."""
    if pid is None:
        return None
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(f"{kind}:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


VERBS: Verbs = {"node_status": status, "node_stop": stop}
