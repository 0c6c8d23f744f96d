"""Sdk: `Pyro`, the operations as methods.

Each method is read from its operation with the full static type: `call` is dropped, `self` takes its place.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, cast

from pyro_mcp.api import diff, disk, export, patch, project, run, service, shell, snapshot, summary, sync, vm, workspace
from pyro_mcp.api import environment as environments
from pyro_mcp.api import exec as workspace_exec
from pyro_mcp.api import file as files
from pyro_mcp.errors import PyroError
from pyro_mcp.operations.operation import Operation
from pyro_mcp.settings import Settings
from pyro_mcp.surfaces import wording
from pyro_mcp.surfaces.client import Callbacks, Client, noop

if TYPE_CHECKING:
    from mcp.server import Server

P = ParamSpec("P")
R = TypeVar("R")


def sdk_method(operation: Operation[P, R]) -> Callable[Concatenate[Pyro, P], R]:
    """`operation` as a method of `Pyro`."""

    def method(self: Pyro, *args: Any, **kwargs: Any) -> R:
        try:
            params, inputs = operation.request(args, kwargs)
            payload = self._client.call(operation, params, inputs, self._callbacks)
        except PyroError as error:
            wording.SDK.error(error)
            raise
        return operation.result(wording.SDK.result(payload))

    document(method, operation, "Pyro")
    return cast("Callable[Concatenate[Pyro, P], R]", method)


def document(method: Any, operation: Operation[..., Any], owner: str) -> None:
    """Give `method` of the class `owner` what `help()` shows: the verb's text and its own parameters, with `self` in
    the place of the call."""
    signature = inspect.signature(operation.function)
    first, *rest = signature.parameters.values()
    method.__doc__ = wording.SDK.text(operation.doc)
    method.__name__ = operation.name
    method.__qualname__ = f"{owner}.{operation.name}"
    method.__signature__ = signature.replace(parameters=[first.replace(name="self", annotation=first.empty), *rest])


class Pyro:
    """Disposable machines from Python. A context manager; safe to share between threads; one connection.

    `state_dir` and `cache_dir` replace the configured directories. `on_progress(message, fraction)` gets what long
    calls do (`fraction` is 0 to 1, or None), `on_notice(text)` the fallbacks they take, and `on_output(tag, data)` a
    command's output as it comes (tag 1 is stdout, 2 stderr). All are called on the thread that made the call.

    Every method raises a `PyroError`, of a kind such as `NotFound`; the kinds and the types of all results are imported
    from `pyro_mcp`. A non-zero exit code of a command is a result, not an error.
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

    list_environments = sdk_method(environments.list_environments)
    pull_environment = sdk_method(environments.pull_environment)
    inspect_environment = sdk_method(environments.inspect_environment)
    prune_environments = sdk_method(environments.prune_environments)

    create_vm = sdk_method(vm.create_vm)
    start_vm = sdk_method(vm.start_vm)
    exec_vm = sdk_method(vm.exec_vm)
    stop_vm = sdk_method(vm.stop_vm)
    delete_vm = sdk_method(vm.delete_vm)
    status_vm = sdk_method(vm.status_vm)
    network_info_vm = sdk_method(vm.network_info_vm)
    reap_expired = sdk_method(vm.reap_expired)
    run_in_vm = sdk_method(run.run_in_vm)

    create_workspace = sdk_method(workspace.create_workspace)
    list_workspaces = sdk_method(workspace.list_workspaces)
    status_workspace = sdk_method(workspace.status_workspace)
    update_workspace = sdk_method(workspace.update_workspace)
    start_workspace = sdk_method(workspace.start_workspace)
    stop_workspace = sdk_method(workspace.stop_workspace)
    delete_workspace = sdk_method(workspace.delete_workspace)
    exec_workspace = sdk_method(workspace_exec.exec_workspace)
    logs_workspace = sdk_method(workspace_exec.logs_workspace)

    show_project = sdk_method(project.show_project)
    trust_project = sdk_method(project.trust_project)

    list_workspace_files = sdk_method(files.list_workspace_files)
    read_workspace_file = sdk_method(files.read_workspace_file)
    view_workspace_files = sdk_method(files.view_workspace_files)
    write_workspace_file = sdk_method(files.write_workspace_file)
    edit_workspace_file = sdk_method(files.edit_workspace_file)
    search_workspace_files = sdk_method(files.search_workspace_files)
    apply_workspace_patch = sdk_method(patch.apply_workspace_patch)
    diff_workspace = sdk_method(diff.diff_workspace)
    push_workspace_sync = sdk_method(sync.push_workspace_sync)
    export_workspace = sdk_method(export.export_workspace)

    create_snapshot = sdk_method(snapshot.create_snapshot)
    list_snapshots = sdk_method(snapshot.list_snapshots)
    delete_snapshot = sdk_method(snapshot.delete_snapshot)
    reset_workspace = sdk_method(snapshot.reset_workspace)
    summarize_workspace = sdk_method(summary.summarize_workspace)
    start_service = sdk_method(service.start_service)
    list_services = sdk_method(service.list_services)
    status_service = sdk_method(service.status_service)
    logs_service = sdk_method(service.logs_service)
    stop_service = sdk_method(service.stop_service)
    open_shell = sdk_method(shell.open_shell)
    list_shells = sdk_method(shell.list_shells)
    read_shell = sdk_method(shell.read_shell)
    write_shell = sdk_method(shell.write_shell)
    signal_shell = sdk_method(shell.signal_shell)
    resize_shell = sdk_method(shell.resize_shell)
    close_shell = sdk_method(shell.close_shell)
    attach_shell = sdk_method(shell.attach_shell)
    export_workspace_disk = sdk_method(disk.export_workspace_disk)
    list_workspace_disk = sdk_method(disk.list_workspace_disk)
    read_workspace_disk = sdk_method(disk.read_workspace_disk)

    def create_server(self, profile: str = "workspace-core", *, allow_host_compat: bool = False) -> Server[Any]:
        """An MCP server over this connection; see `pyro_mcp.create_server`."""
        return served_by(self._client, profile, allow_host_compat=allow_host_compat)

    def close(self) -> None:
        """End the connection. What is still under way is cancelled; machines that were created stay."""
        self._client.close()

    def __enter__(self) -> Pyro:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def served_by(client: Client, profile: str, *, allow_host_compat: bool) -> Server[Any]:
    """An MCP server whose tools go through `client`."""
    from pyro_mcp.surfaces.mcp.server import build_server, offer

    return build_server(client, offer(profile, allow_host_compat=allow_host_compat))
