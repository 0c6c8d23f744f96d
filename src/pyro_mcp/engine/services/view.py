"""Service view: the row of a run becomes the fields of a result."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast

from pyro_mcp.model.process import ExecutionMode, Isolation
from pyro_mcp.model.service import PublishedPort, RestartPolicy, Service, ServiceState
from pyro_mcp.store.services import ServiceRow


def service_portrait(row: ServiceRow) -> Service:
    """What everybody sees of it."""
    return Service(**service_facts(row))


def service_facts(row: ServiceRow) -> dict[str, Any]:
    """The same as fields, for results that add to them."""
    return {
        "workspace_id": row.workspace_id,
        "service_name": row.service_name,
        "state": cast(ServiceState, row.state),
        "command": row.command,
        "cwd": row.cwd,
        "started_at": _time(row.started_at),
        "ready_at": None if row.ready_at is None else _time(row.ready_at),
        "ended_at": None if row.ended_at is None else _time(row.ended_at),
        "exit_code": row.exit_code,
        "signal": row.signal,
        "pid": row.pid,
        "readiness": row.readiness,
        "stop_reason": None if row.alive and not row.restart_count else row.stop_reason,
        "restart": cast(RestartPolicy, row.restart),
        "restart_count": row.restart_count,
        "published_ports": [PublishedPort(**port) for port in row.published_ports] if row.alive else [],
        "execution_mode": cast(ExecutionMode, row.execution_mode),
        "isolation": cast(Isolation, row.isolation),
    }


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
