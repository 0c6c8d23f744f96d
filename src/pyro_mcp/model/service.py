"""Service results: named long-running processes of a workspace."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from pyro_mcp.model.page import ListPage
from pyro_mcp.model.process import ExecutionMode, Isolation
from pyro_mcp.model.result import Result

ServiceState = Literal["starting", "ready", "running", "failed", "exited", "stopped"]
RestartPolicy = Literal["off", "on-failure"]
ALIVE: frozenset[str] = frozenset({"starting", "ready", "running"})
"""States in which a service has processes, or will have them in a moment."""


@dataclass(frozen=True, kw_only=True)
class PublishedPort(Result):
    """A port of the service that this host carries to it while it lives. `problem`: why it cannot at the moment."""

    guest_port: int
    host_port: int
    host: str
    protocol: Literal["tcp"] = "tcp"
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class Service(Result):
    """A service, or what became of the last one of that name.

    `state`: `starting` until its readiness condition holds, then `ready`; one without a condition is `running` when it
    has run on for a moment. `exited` ended by itself with 0, `failed` otherwise or was not ready in time, `stopped` was
    ended by somebody, also with its workspace. `stop_reason` says it in words. `exit_code` is as a shell has it: 128+n
    when signal n ended it. Times are UTC; `ready_at` and `ended_at` are null until then.
    """

    workspace_id: str
    service_name: str
    state: ServiceState
    command: str
    cwd: str
    started_at: datetime
    ready_at: datetime | None
    ended_at: datetime | None
    exit_code: int | None
    signal: str | None
    pid: int | None
    readiness: dict[str, Any] | None
    stop_reason: str | None
    restart: RestartPolicy
    restart_count: int
    published_ports: list[PublishedPort] = field(default_factory=list)
    execution_mode: ExecutionMode
    isolation: Isolation


@dataclass(frozen=True, kw_only=True)
class StartedService(Service):
    """A service after its start, with the end of what it has said so far; `truncated`: there was more."""

    stdout: str = ""
    stderr: str = ""
    truncated: bool = False


@dataclass(frozen=True, kw_only=True)
class ServiceList(ListPage):
    """The services of a workspace since its last reset, the last of each name. Iterating goes over them."""

    workspace_id: str
    services: list[Service]

    def __iter__(self) -> Iterator[Service]:
        return iter(self.services)

    def __len__(self) -> int:
        return len(self.services)


@dataclass(frozen=True, kw_only=True)
class ServiceLogs(Service):
    """The end of what a service has said. `tail_lines` is null when all was asked for; `truncated`: there was more.

    The latest part is kept while the workspace runs, a shorter one after it has stopped.
    """

    stdout: str
    stderr: str
    tail_lines: int | None
    truncated: bool
