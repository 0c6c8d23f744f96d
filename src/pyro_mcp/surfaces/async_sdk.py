"""Async sdk: `AsyncPyro`, the operations as methods to await, under asyncio and trio.

A call blocks a thread of its own and never the event loop or the loop's own threads. A task that is cancelled ends the
guest's work before it goes on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, cast

import anyio
import anyio.from_thread
import anyio.to_thread

from pyro_mcp.api import diff, disk, export, patch, project, run, service, shell, snapshot, summary, sync, vm, workspace
from pyro_mcp.api import environment as environments
from pyro_mcp.api import exec as workspace_exec
from pyro_mcp.api import file as files
from pyro_mcp.errors import Cancelled, PyroError
from pyro_mcp.operations.operation import Operation
from pyro_mcp.settings import Settings
from pyro_mcp.surfaces import wording
from pyro_mcp.surfaces.client import CANCEL_SECONDS, Callbacks, Client, Request, noop
from pyro_mcp.surfaces.sdk import document, served_by

if TYPE_CHECKING:
    from mcp.server import Server

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

MAX_CALLS = 128
"""That one `AsyncPyro` has under way; more wait for their turn. The node takes twice as many of one connection."""


def async_method(operation: Operation[P, R]) -> Callable[Concatenate[AsyncPyro, P], Coroutine[object, None, R]]:
    """`operation` as a method of `AsyncPyro`. Its type says no more than `Coroutine` of `object`, because mypy takes a
    `gather` of several with `Any` in them for `Any`."""

    async def method(self: AsyncPyro, *args: Any, **kwargs: Any) -> R:
        try:
            params, inputs = operation.request(args, kwargs)
            payload = await self._call(operation.name, params, inputs)
        except PyroError as error:
            wording.SDK.error(error)
            raise
        return operation.result(wording.SDK.result(payload))

    document(method, operation, "AsyncPyro")
    return cast("Callable[Concatenate[AsyncPyro, P], Coroutine[object, None, R]]", method)


class AsyncPyro:
    """`Pyro` for programs with an event loop: the same methods, awaitable. An async context manager, for any number of
    tasks of one event loop.

    The parameters are those of `Pyro`. The callbacks are plain functions and are called on the event loop; a command's
    output waits for them. When a task is cancelled, what it asked for is ended in the guest first, for at most five
    seconds, and then `CancelledError` is raised; what had been created by then stays.
    """

    def __init__(
        self,
        *,
        state_dir: str | Path | None = None,
        cache_dir: str | Path | None = None,
        on_progress: Callable[[str, float | None], None] | None = None,
        on_notice: Callable[[str], None] | None = None,
        on_output: Callable[[int, bytes], None] | None = None,
    ) -> None:
        self._client = Client(Settings.load(state_dir=state_dir, cache_dir=cache_dir))
        self._callbacks = Callbacks(on_progress or noop, on_notice or noop, on_output or noop)
        self._limiter: anyio.CapacityLimiter | None = None

    list_environments = async_method(environments.list_environments)
    pull_environment = async_method(environments.pull_environment)
    inspect_environment = async_method(environments.inspect_environment)
    prune_environments = async_method(environments.prune_environments)

    create_vm = async_method(vm.create_vm)
    start_vm = async_method(vm.start_vm)
    exec_vm = async_method(vm.exec_vm)
    stop_vm = async_method(vm.stop_vm)
    delete_vm = async_method(vm.delete_vm)
    status_vm = async_method(vm.status_vm)
    network_info_vm = async_method(vm.network_info_vm)
    reap_expired = async_method(vm.reap_expired)
    run_in_vm = async_method(run.run_in_vm)

    create_workspace = async_method(workspace.create_workspace)
    list_workspaces = async_method(workspace.list_workspaces)
    status_workspace = async_method(workspace.status_workspace)
    update_workspace = async_method(workspace.update_workspace)
    start_workspace = async_method(workspace.start_workspace)
    stop_workspace = async_method(workspace.stop_workspace)
    delete_workspace = async_method(workspace.delete_workspace)
    exec_workspace = async_method(workspace_exec.exec_workspace)
    logs_workspace = async_method(workspace_exec.logs_workspace)

    show_project = async_method(project.show_project)
    trust_project = async_method(project.trust_project)

    list_workspace_files = async_method(files.list_workspace_files)
    read_workspace_file = async_method(files.read_workspace_file)
    view_workspace_files = async_method(files.view_workspace_files)
    write_workspace_file = async_method(files.write_workspace_file)
    edit_workspace_file = async_method(files.edit_workspace_file)
    search_workspace_files = async_method(files.search_workspace_files)
    apply_workspace_patch = async_method(patch.apply_workspace_patch)
    diff_workspace = async_method(diff.diff_workspace)
    push_workspace_sync = async_method(sync.push_workspace_sync)
    export_workspace = async_method(export.export_workspace)

    create_snapshot = async_method(snapshot.create_snapshot)
    list_snapshots = async_method(snapshot.list_snapshots)
    delete_snapshot = async_method(snapshot.delete_snapshot)
    reset_workspace = async_method(snapshot.reset_workspace)
    summarize_workspace = async_method(summary.summarize_workspace)
    start_service = async_method(service.start_service)
    list_services = async_method(service.list_services)
    status_service = async_method(service.status_service)
    logs_service = async_method(service.logs_service)
    stop_service = async_method(service.stop_service)
    open_shell = async_method(shell.open_shell)
    list_shells = async_method(shell.list_shells)
    read_shell = async_method(shell.read_shell)
    write_shell = async_method(shell.write_shell)
    signal_shell = async_method(shell.signal_shell)
    resize_shell = async_method(shell.resize_shell)
    close_shell = async_method(shell.close_shell)
    attach_shell = async_method(shell.attach_shell)
    export_workspace_disk = async_method(disk.export_workspace_disk)
    list_workspace_disk = async_method(disk.list_workspace_disk)
    read_workspace_disk = async_method(disk.read_workspace_disk)

    async def create_server(self, profile: str = "workspace-core", *, allow_host_compat: bool = False) -> Server[Any]:
        """An MCP server over this connection; see `pyro_mcp.create_server`."""
        return await _in_thread(lambda: served_by(self._client, profile, allow_host_compat=allow_host_compat))

    async def aclose(self) -> None:
        """End the connection. What is still under way is cancelled; machines that were created stay."""
        with anyio.CancelScope(shield=True):
            await _in_thread(self._client.close)

    async def __aenter__(self) -> AsyncPyro:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _call(self, verb: str, params: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
        """The encoded result. Raises `PyroError`."""
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(MAX_CALLS)
        call = AsyncCall(self._client, self._callbacks)
        work = partial(call.run, verb, params, inputs)
        try:
            return await anyio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._limiter)
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await _in_thread(call.end)
            raise


class AsyncCall:
    """One call: `run` on a thread that may be left, and `end` on another to end it there."""

    def __init__(self, client: Client, callbacks: Callbacks) -> None:
        self._client = client
        self._callbacks = Callbacks(
            partial(self._on_loop, callbacks.progress),
            partial(self._on_loop, callbacks.notice),
            partial(self._on_loop, callbacks.output),
        )
        self._lock = threading.Lock()
        self._request: Request | None = None
        self._begun = False
        self._cancelled = threading.Event()
        self._done = threading.Event()

    def run(self, verb: str, params: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
        """Block for the answer. Raises `PyroError`, `Cancelled` when `end` came first."""
        with self._lock:
            if self._cancelled.is_set():
                raise Cancelled(f"cannot {verb}: the caller cancelled it")
            self._begun = True
        try:
            request = self._client.begin(verb, params, inputs)
            with self._lock:
                self._request = request
            if self._cancelled.is_set():
                request.cancel()
            return request.wait(self._callbacks)
        finally:
            self._done.set()

    def end(self) -> None:
        """End the guest's work, also when the request is only just being sent, and wait a little for that."""
        with self._lock:
            self._cancelled.set()
            request = self._request
        if request is not None:
            request.cancel()
        if self._begun:
            self._done.wait(CANCEL_SECONDS)

    def _on_loop(self, callback: Callable[..., None], *news: Any) -> None:
        """Once cancelled nobody listens, and the loop may be gone."""
        if callback is not noop and not self._cancelled.is_set():
            anyio.from_thread.run_sync(callback, *news)


async def _in_thread(work: Callable[[], T]) -> T:
    """`work`, in a thread beside those that the program allows itself."""
    return await anyio.to_thread.run_sync(work, limiter=anyio.CapacityLimiter(1))
