"""Mcp: the operations as tools of a Model Context Protocol server.

The SDK's low-level `Server` is used because it takes our schemas as they are and serves both protocol eras. Each call
runs the blocking client in a worker thread, so a slow one holds up no other; when the host cancels, the node is told
and the guest's command ends.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Container, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import anyio
import anyio.from_thread
import anyio.to_thread
from mcp.server import Server, ServerRequestContext
from mcp.types import CallToolRequestParams, CallToolResult, ListToolsResult, PaginatedRequestParams

from pyro_mcp.errors import InvalidArgument, PyroError
from pyro_mcp.settings import Settings
from pyro_mcp.surfaces import catalog
from pyro_mcp.surfaces.client import Callbacks, Client, Request
from pyro_mcp.surfaces.mcp_defaults import ServerDefaults
from pyro_mcp.surfaces.mcp_paths import host_roots
from pyro_mcp.surfaces.mcp_tools import BoundTool, answer, refusal, tool_wording
from pyro_mcp.version import VERSION

if TYPE_CHECKING:
    from pyro_mcp.operations.operation import Operation

MAX_CALLS = 128
QUIET_SECONDS = 1.0
HEARTBEAT_SECONDS = 5.0

INSTRUCTIONS = """\
Runs commands in disposable Linux virtual machines. vm_run starts a fresh machine, runs one command and deletes the
machine: nothing is kept between calls, and nothing of the user's computer is visible inside. Environments: debian:12
(git), debian:12-base (minimal), debian:12-build (git, gcc, make, cmake, python3). A non-zero exit_code is a result, not
a failure of the tool. Commands are killed after timeout_seconds (default 30). Long output is cut in the middle and
says so. The first use of an environment installs it, which takes minutes and reports progress."""
WORKSPACE_INSTRUCTIONS = """\

Workspaces keep their files in /workspace between calls: workspace_create (give seed_path to start from a directory or
archive of the user's), then workspace_exec, workspace_file_*, workspace_patch_apply; look at workspace_diff, take work
out with workspace_export, and workspace_delete when done. For a command that takes longer than a minute give
wait_seconds and follow it with workspace_logs."""
PROJECT_INSTRUCTIONS = """\

A new workspace holds the user's project, with its git repository, unless seed_path or empty is given."""
LIVING_INSTRUCTIONS = """\

What keeps state or wants a terminal: shell_open, shell_write, then shell_read with plain, wait_for_idle_ms and the
next_cursor of the read before. What should go on: service_start, not "&" in a command; published_ports need
network_policy "egress+published-ports". There is no network unless workspace_create gets a network_policy; a refused
connection is named in the result with the option that would allow it, which the user may have to grant."""


def create_server(
    profile: str = catalog.DEFAULT_PROFILE,
    *,
    settings: Settings | None = None,
    allow_host_compat: bool = False,
    host_paths: Iterable[Path | str] = (),
    defaults: ServerDefaults | None = None,
) -> Server[Any]:
    """An MCP server with the tools of `profile`, ready for `server.run(...)` or an in-process `mcp.Client(server)`.

    The node is started by the first call, not here. `allow_host_compat` lets a call ask for a plain host process;
    `host_paths` are places, besides the working directory, that tools may read from and export to; `defaults` are the
    project and the environment of workspaces for which a model names none. Raises `InvalidArgument` for an unknown
    profile.
    """
    client = Client(settings or Settings.load())
    return build_server(client, profile, allow_host_compat=allow_host_compat, host_paths=host_paths, defaults=defaults)


def serve(
    settings: Settings,
    profile: str,
    *,
    allow_host_compat: bool = False,
    host_paths: Iterable[Path | str] = (),
    defaults: ServerDefaults | None = None,
) -> NoReturn:
    """Serve over standard input and output until the host has done; the process ends here."""
    from pyro_mcp.surfaces.mcp_stdio import serve_stdio

    serve_stdio(
        create_server(
            profile,
            settings=settings,
            allow_host_compat=allow_host_compat,
            host_paths=host_paths,
            defaults=defaults,
        )
    )


def build_server(
    client: Client,
    profile: str,
    *,
    allow_host_compat: bool,
    host_paths: Iterable[Path | str] = (),
    defaults: ServerDefaults | None = None,
) -> Server[Any]:
    """A server whose tools go through `client`."""
    defaults = defaults or ServerDefaults()
    roots = host_roots((*host_paths, *defaults.roots))
    bound = [
        BoundTool(one, profile, allow_host_compat=allow_host_compat, roots=roots, defaults=defaults)
        for one in catalog.tools(profile)
    ]
    tools = {tool.name: tool for tool in bound}
    calls = ToolCalls(client, tools)
    wording = tool_wording(tools)
    listed = [tool.describe(wording) for tool in bound]

    async def list_tools(context: ServerRequestContext[Any], params: PaginatedRequestParams | None) -> ListToolsResult:
        return ListToolsResult(tools=listed)

    return Server(
        "pyro",
        version=VERSION,
        title="pyro",
        instructions=instructions(tools, defaults),
        on_list_tools=list_tools,
        on_call_tool=calls.call,
    )


def instructions(tools: Container[str], defaults: ServerDefaults | None = None) -> str:
    """The instructions for a model: the tools it sees, and no others; it reads this every time."""
    text = INSTRUCTIONS
    if "workspace_create" in tools:
        text += WORKSPACE_INSTRUCTIONS + (PROJECT_INSTRUCTIONS if defaults and defaults.source else "")
    if "shell_open" in tools and "service_start" in tools:
        text += LIVING_INSTRUCTIONS
    return text


class ToolCalls:
    """Answers `tools/call`. Every failure becomes a tool error the model can read."""

    def __init__(self, client: Client, tools: dict[str, BoundTool]) -> None:
        self._client = client
        self._tools = tools
        self._wording = tool_wording(tools)
        self._limiter: anyio.CapacityLimiter | None = None

    async def call(self, context: ServerRequestContext[Any], params: CallToolRequestParams) -> CallToolResult:
        """The edge of this surface."""
        try:
            tool = self._tool(params.name)
            arguments = params.arguments or {}
            project = tool.defaults.asks_project(tool.operation, arguments)
            return await self._run(context, tool, tool.params(arguments), project)
        except PyroError as error:
            return refusal(self._wording.error(error))
        except Exception as error:  # noqa: BLE001
            return refusal(PyroError(f"cannot call {params.name[:64]}: {type(error).__name__}: {str(error)[:500]}"))

    def _tool(self, name: str) -> BoundTool:
        if name not in self._tools:
            hint = f"The tools are: {', '.join(self._tools)}."
            raise InvalidArgument(f"cannot call {name[:64]!r}: there is no such tool here", hint=hint)
        return self._tools[name]

    async def _run(
        self,
        context: ServerRequestContext[Any],
        tool: BoundTool,
        params: dict[str, Any],
        project: dict[str, Any] | None = None,
    ) -> CallToolResult:
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(MAX_CALLS)
        job = ToolCall(self._client, tool.operation, params, project)
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(job.relay, context)
                payload = await anyio.to_thread.run_sync(job.run, abandon_on_cancel=True, limiter=self._limiter)
                group.cancel_scope.cancel()
        except BaseExceptionGroup as errors:
            raise _first(errors) from None
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(job.cancel)
            raise
        return answer(self._wording.result(payload))


class ToolCall:
    """One call: the blocking part in a worker thread, its progress on the event loop. `project` is asked first for the
    environment, where the model named none."""

    def __init__(
        self,
        client: Client,
        operation: Operation[Any, Any],
        params: dict[str, Any],
        project: dict[str, Any] | None = None,
    ) -> None:
        self._client = client
        self._operation = operation
        self._params = params
        self._project = project
        self._lock = threading.Lock()
        self._request: Request | None = None
        self._cancelled = False
        self._news = anyio.Event()
        self._message = ""
        # Asked for here, on the event loop: a worker thread cannot.
        self._not_heard = (RuntimeError, anyio.get_cancelled_exc_class())

    def run(self) -> dict[str, Any]:
        """Blocks for the answer; the node knows the call until it has answered."""
        params = self._params
        if self._project is not None:
            named = self._ask("show_project", self._project).get("environment")
            params = {**params, "environment": named or params["environment"]}
        return self._ask(self._operation.name, params)

    def _ask(self, verb: str, params: dict[str, Any]) -> dict[str, Any]:
        request = self._client.begin(verb, params)
        with self._lock:
            self._request = request
            cancelled = self._cancelled
        if cancelled:
            request.cancel()
        return request.wait(Callbacks(progress=self._heard, notice=lambda text: self._heard(text, None)))

    def cancel(self) -> None:
        """End the guest's command, also when the request is only just being sent."""
        with self._lock:
            self._cancelled = True
            request = self._request
        if request is not None:
            request.cancel()

    async def relay(self, context: ServerRequestContext[Any]) -> None:
        """Pass progress on, at most one report a second and at least one in five; some hosts end a silent call.

        The number is seconds since the start, which always grows as the protocol demands; the share is in the text.
        """
        begun = time.monotonic()
        while True:
            with anyio.move_on_after(HEARTBEAT_SECONDS):
                await self._news.wait()
            self._news = anyio.Event()
            await context.session.report_progress(round(time.monotonic() - begun, 3), None, self._message or "running")
            await anyio.sleep(QUIET_SECONDS)

    def _heard(self, message: str, fraction: float | None) -> None:
        self._message = message if fraction is None else f"{message} ({fraction:.0%})"
        # After a cancellation nobody listens, and the loop may be gone.
        with contextlib.suppress(*self._not_heard):
            anyio.from_thread.run_sync(lambda: self._news.set())


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one error of a task group that holds one."""
    inner = errors.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner
