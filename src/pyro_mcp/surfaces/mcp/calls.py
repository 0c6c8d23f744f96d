"""Calls: each call of a tool as one of the node.

It runs the blocking client in a worker thread, so a slow one holds up no other; when the host cancels, the node is told
and the guest's command ends.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

import anyio
import anyio.from_thread
import anyio.to_thread
from mcp.server import ServerRequestContext
from mcp.types import CallToolRequestParams, CallToolResult

from pyro_mcp.errors import Cancelled, InvalidArgument, PyroError
from pyro_mcp.surfaces.client import Callbacks, Client, Request
from pyro_mcp.surfaces.mcp.tools import BoundTool, refusal

if TYPE_CHECKING:
    from pyro_mcp.operations.operation import Operation
    from pyro_mcp.surfaces.mcp.offer import Offer

MAX_CALLS = 128
QUIET_SECONDS = 1.0
HEARTBEAT_SECONDS = 5.0


class ToolCalls:
    """Answers `tools/call`. Every failure becomes a tool error the model can read."""

    def __init__(self, client: Client, offer: Offer) -> None:
        self._client = client
        self._tools = offer.tools
        self._wording = offer.wording
        self._limiter: anyio.CapacityLimiter | None = None

    async def call(self, context: ServerRequestContext[Any], params: CallToolRequestParams) -> CallToolResult:
        """The edge of this surface."""
        try:
            return await self.run(context, params.name, params.arguments or {})
        except PyroError as error:
            return refusal(self._wording.error(error))
        except Exception as error:  # noqa: BLE001
            return refusal(PyroError(f"cannot call {params.name[:64]}: {type(error).__name__}: {str(error)[:500]}"))

    def _tool(self, name: str) -> BoundTool:
        if name not in self._tools:
            hint = f"The tools are: {', '.join(self._tools)}."
            raise InvalidArgument(f"cannot call {name[:64]!r}: there is no such tool here", hint=hint)
        return self._tools[name]

    async def run(self, context: ServerRequestContext[Any], name: str, arguments: dict[str, Any]) -> CallToolResult:
        """The answer of a tool. Raises `PyroError`."""
        tool = self._tool(name)
        params = tool.params(arguments)
        project = tool.defaults.asks_project(tool.operation, arguments)
        takes = tool.defaults.takes_project(tool.operation, params)
        payload = await self.ask(context, tool.operation, params, project, takes_project=takes)
        # What the server filled in is news.
        return tool.answer(self._wording.result(payload), {key: params[key] for key in arguments if key in params})

    async def ask(
        self,
        context: ServerRequestContext[Any],
        operation: Operation[Any, Any],
        params: dict[str, Any],
        project: dict[str, Any] | None = None,
        *,
        takes_project: bool = False,
    ) -> dict[str, Any]:
        """What the node answers to `params`, whole. Raises `PyroError`."""
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(MAX_CALLS)
        job = ToolCall(self._client, operation, params, project, takes_project=takes_project)
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
        return payload


class ToolCall:
    """One call: the blocking part in a worker thread, its progress on the event loop. `project` is asked first for the
    environment, where the model named none; the call `takes_project` if it cannot do without."""

    def __init__(
        self,
        client: Client,
        operation: Operation[Any, Any],
        params: dict[str, Any],
        project: dict[str, Any] | None = None,
        *,
        takes_project: bool = False,
    ) -> None:
        self._client = client
        self._operation = operation
        self._params, self._inputs = operation.separated(params)
        self._project = project
        self._takes_project = takes_project
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
            params = {**params, "environment": self._projects_environment(self._project) or params["environment"]}
        return self._ask(self._operation.name, params, self._inputs)

    def _projects_environment(self, project: dict[str, Any]) -> str | None:
        """What the project's file names; None too where it cannot be read and is of no other use to the call."""
        try:
            named: str | None = self._ask("show_project", project).get("environment")
        except Cancelled:
            raise
        except PyroError as error:
            if self._takes_project:
                raise
            self._heard(f"using {self._params['environment']}, as the project names none: {error.message}", None)
            return None
        return named

    def _ask(self, verb: str, params: dict[str, Any], inputs: dict[str, Any] | None = None) -> dict[str, Any]:
        request = self._client.begin(verb, params, inputs)
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
