"""Service: named long-running processes in a workspace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypedDict

from pyro_mcp.api.params import Command, Cwd, Env, PageLimit, PageOffset, SecretEnv, WorkspaceRef
from pyro_mcp.model.names import SNAPSHOT_NAME, SNAPSHOT_RULE
from pyro_mcp.model.page import paged
from pyro_mcp.model.service import RestartPolicy, Service, ServiceList, ServiceLogs, StartedService
from pyro_mcp.operations.fields import Param
from pyro_mcp.operations.operation import Effects, operation

if TYPE_CHECKING:
    from pyro_mcp.engine.engine import Engine
    from pyro_mcp.operations.call import Call

_READ = Effects(read_only=True, idempotent=True)


class ReadyWhen(TypedDict, total=False):
    """Exactly one of the keys."""

    file: str
    tcp: str
    http: str
    command: str | list[str]


ServiceName = Annotated[
    str,
    Param(help="name of the service", pattern=SNAPSHOT_NAME, rule=SNAPSHOT_RULE, metavar="NAME", cli="positional"),
]
Readiness = Annotated[
    ReadyWhen,
    Param(
        help="when it counts as ready, with exactly one of file (a path that exists), tcp (HOST:PORT that accepts"
        " connections), http (a URL that answers with 200 to 399) and command (ends with 0), looked at inside the"
        ' machine, such as {"tcp": "127.0.0.1:8000"}; without it, it is running once it has run on for a moment',
        key_flags=(
            ("file", "--ready-file", "PATH", "ready when this path exists in the machine"),
            ("tcp", "--ready-tcp", "HOST:PORT", "ready when this accepts connections inside the machine"),
            ("http", "--ready-http", "URL", "ready when this answers with 200 to 399 inside the machine"),
            ("command", "--ready-command", "LINE", "ready when this shell line ends with 0 inside the machine"),
        ),
    ),
]
ReadyTimeoutSeconds = Annotated[
    int, Param(help="seconds after which one that is not ready is ended", ge=1, le=3600, metavar="S")
]
ReadyIntervalMs = Annotated[
    int, Param(help="milliseconds between two looks at whether it is ready", ge=10, le=60_000, metavar="MS")
]
Restart = Annotated[
    RestartPolicy,
    Param(
        help="whether one that was up and failed is started again, after growing pauses and at most 5 times",
        metavar="POLICY",
    ),
]
PublishedPorts = Annotated[
    list[str | int],
    Param(
        help="port of the service to reach on 127.0.0.1 of this host, as GUEST or HOST:GUEST; needs the network policy"
        " egress+published-ports",
        flag="--publish",
        metavar="[HOST:]GUEST",
        max_length=16,
        opens_network=True,
    ),
]
TailLines = Annotated[
    int, Param(help="how many of the last lines of each stream to show", ge=1, le=100_000, metavar="N", tool_max=1_000)
]
All = Annotated[bool, Param(help="show all that is kept instead")]


@operation(cli=("workspace", "service", "start"), tool="service_start", title="Start a service", effects=Effects())
def start_service(
    call: Call[Engine],
    workspace_id: WorkspaceRef,
    service_name: ServiceName,
    *,
    command: Command,
    cwd: Cwd = "/workspace",
    env: Env | None = None,
    readiness: Readiness | None = None,
    ready_timeout_seconds: ReadyTimeoutSeconds = 30,
    ready_interval_ms: ReadyIntervalMs = 500,
    restart: Restart = "off",
    secret_env: SecretEnv | None = None,
    published_ports: PublishedPorts | None = None,
) -> StartedService:
    """Start a long-running command under a name, and wait until it is ready.

    The answer comes as soon as it is ready, runs on without a condition, or has failed, with the end of its log; look
    at `state`. It goes on until it is stopped or the workspace is, whatever becomes of the caller. Let it run in the
    foreground: when its first process ends, everything that it has started ends too.
    """
    return call.engine.services.start(
        call,
        workspace_id,
        service_name,
        command=command,
        cwd=cwd,
        env=env,
        readiness=dict(readiness) if readiness is not None else None,
        ready_timeout_seconds=ready_timeout_seconds,
        ready_interval_ms=ready_interval_ms,
        restart=restart,
        secret_env=secret_env,
        published_ports=published_ports,
    )


@operation(cli=("workspace", "service", "list"), tool="service_list", title="List services", effects=_READ)
def list_services(
    call: Call[Engine], workspace_id: WorkspaceRef, *, limit: PageLimit = 1000, offset: PageOffset = 0
) -> ServiceList:
    """List the services of a workspace since its last reset, ended ones too."""
    return paged(call.engine.services.listing(workspace_id), "services", limit, offset)


@operation(cli=("workspace", "service", "status"), tool="service_status", title="Show a service", effects=_READ)
def status_service(call: Call[Engine], workspace_id: WorkspaceRef, service_name: ServiceName) -> Service:
    """Show a service: its state, since when, on which ports, and why it ended."""
    return call.engine.services.status(workspace_id, service_name)


@operation(cli=("workspace", "service", "logs"), tool="service_logs", title="Show what a service said", effects=_READ)
def logs_service(
    call: Call[Engine],
    workspace_id: WorkspaceRef,
    service_name: ServiceName,
    *,
    tail_lines: TailLines = 200,
    all: All = False,
) -> ServiceLogs:
    """Show the end of what a service has written to its standard output and error."""
    return call.engine.services.logs(call, workspace_id, service_name, tail_lines=tail_lines, everything=all)


@operation(
    cli=("workspace", "service", "stop"),
    tool="service_stop",
    title="Stop a service",
    effects=Effects(idempotent=True),
)
def stop_service(call: Call[Engine], workspace_id: WorkspaceRef, service_name: ServiceName) -> Service:
    """Stop a service: TERM to its processes, after 5 seconds KILL to everything that it has started."""
    return call.engine.services.stop(workspace_id, service_name)
