"""pyro: disposable sandboxes in real virtual machines. `__all__` is what a program may rely on.

Everything is imported on first use, so that `import pyro_mcp` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyro_mcp.version import VERSION as __version__

if TYPE_CHECKING:
    from pyro_mcp.errors import (
        Cancelled,
        Capacity,
        Conflict,
        DiskFull,
        InvalidArgument,
        IsolationUnavailable,
        MachineFailed,
        MissingDependency,
        NodeUnavailable,
        NotFound,
        PermissionDenied,
        ProtocolError,
        PyroError,
        TimedOut,
        Unsupported,
    )
    from pyro_mcp.model.diff import DiffEntry, DiffResult, DiffSummary
    from pyro_mcp.model.disk import DiskExport
    from pyro_mcp.model.environment import Environment, PruneResult
    from pyro_mcp.model.environment_list import EnvironmentList
    from pyro_mcp.model.export import ExportResult
    from pyro_mcp.model.file import (
        FileContent,
        FileEdit,
        FileEdited,
        FileEntry,
        FileList,
        FileMatch,
        FileProblem,
        FileSearch,
        FileView,
        FileViews,
        FileWritten,
    )
    from pyro_mcp.model.machine import ReapResult, Vm, VmDeleted, VmNetwork
    from pyro_mcp.model.network import NetworkDestination, NetworkFailure, NetworkRefusal, NetworkTotals, SummaryNetwork
    from pyro_mcp.model.patch import PatchEntry, PatchResult, PatchSummary
    from pyro_mcp.model.process import Cleanup, CommandResult, RunResult
    from pyro_mcp.model.project import (
        AppliedProject,
        CreatedWorkspace,
        Project,
        ProjectService,
        ProjectTrust,
        SetupStep,
    )
    from pyro_mcp.model.result import Result
    from pyro_mcp.model.service import PublishedPort, Service, ServiceList, ServiceLogs, StartedService
    from pyro_mcp.model.shell import (
        Shell,
        ShellAttached,
        ShellClosed,
        ShellList,
        ShellRead,
        ShellSignalled,
        ShellWritten,
    )
    from pyro_mcp.model.snapshot import Snapshot, SnapshotCreated, SnapshotDeleted, SnapshotList
    from pyro_mcp.model.summary import (
        SummaryChange,
        SummaryChanges,
        SummaryCommand,
        SummaryCommands,
        SummaryEdits,
        SummaryServices,
        SummaryShells,
        SummaryTransfer,
        SummaryTransfers,
        WorkspaceSummary,
    )
    from pyro_mcp.model.sync import Skipped, SyncResult, WorkspaceSync
    from pyro_mcp.model.workspace import (
        ResetWorkspace,
        Workspace,
        WorkspaceDeleted,
        WorkspaceList,
        WorkspaceReset,
        WorkspaceSecret,
        WorkspaceSeed,
    )
    from pyro_mcp.model.workspace_exec import CommandEntry, CommandOutput, WorkspaceExec, WorkspaceLogs
    from pyro_mcp.surfaces.async_sdk import AsyncPyro
    from pyro_mcp.surfaces.mcp.server import create_server
    from pyro_mcp.surfaces.sdk import Pyro

__all__ = [
    "AppliedProject",
    "AsyncPyro",
    "Cancelled",
    "Capacity",
    "Cleanup",
    "CommandEntry",
    "CommandOutput",
    "CommandResult",
    "Conflict",
    "CreatedWorkspace",
    "DiffEntry",
    "DiffResult",
    "DiffSummary",
    "DiskExport",
    "DiskFull",
    "Environment",
    "EnvironmentList",
    "ExportResult",
    "FileContent",
    "FileEdit",
    "FileEdited",
    "FileEntry",
    "FileList",
    "FileMatch",
    "FileProblem",
    "FileSearch",
    "FileView",
    "FileViews",
    "FileWritten",
    "InvalidArgument",
    "IsolationUnavailable",
    "MachineFailed",
    "MissingDependency",
    "NetworkDestination",
    "NetworkFailure",
    "NetworkRefusal",
    "NetworkTotals",
    "NodeUnavailable",
    "NotFound",
    "PatchEntry",
    "PatchResult",
    "PatchSummary",
    "PermissionDenied",
    "Project",
    "ProjectService",
    "ProjectTrust",
    "ProtocolError",
    "PruneResult",
    "PublishedPort",
    "Pyro",
    "PyroError",
    "ReapResult",
    "ResetWorkspace",
    "Result",
    "RunResult",
    "Service",
    "ServiceList",
    "ServiceLogs",
    "SetupStep",
    "Shell",
    "ShellAttached",
    "ShellClosed",
    "ShellList",
    "ShellRead",
    "ShellSignalled",
    "ShellWritten",
    "Skipped",
    "Snapshot",
    "SnapshotCreated",
    "SnapshotDeleted",
    "SnapshotList",
    "StartedService",
    "SummaryChange",
    "SummaryChanges",
    "SummaryCommand",
    "SummaryCommands",
    "SummaryEdits",
    "SummaryNetwork",
    "SummaryServices",
    "SummaryShells",
    "SummaryTransfer",
    "SummaryTransfers",
    "SyncResult",
    "TimedOut",
    "Unsupported",
    "Vm",
    "VmDeleted",
    "VmNetwork",
    "Workspace",
    "WorkspaceDeleted",
    "WorkspaceExec",
    "WorkspaceList",
    "WorkspaceLogs",
    "WorkspaceReset",
    "WorkspaceSecret",
    "WorkspaceSeed",
    "WorkspaceSummary",
    "WorkspaceSync",
    "__version__",
    "create_server",
]

_HOMES = {
    "errors": (
        "Cancelled",
        "Capacity",
        "Conflict",
        "DiskFull",
        "InvalidArgument",
        "IsolationUnavailable",
        "MachineFailed",
        "MissingDependency",
        "NodeUnavailable",
        "NotFound",
        "PermissionDenied",
        "ProtocolError",
        "PyroError",
        "TimedOut",
        "Unsupported",
    ),
    "model.diff": (
        "DiffEntry",
        "DiffResult",
        "DiffSummary",
    ),
    "model.disk": ("DiskExport",),
    "model.environment": (
        "Environment",
        "PruneResult",
    ),
    "model.environment_list": ("EnvironmentList",),
    "model.export": ("ExportResult",),
    "model.file": (
        "FileContent",
        "FileEdit",
        "FileEdited",
        "FileEntry",
        "FileList",
        "FileMatch",
        "FileProblem",
        "FileSearch",
        "FileView",
        "FileViews",
        "FileWritten",
    ),
    "model.machine": (
        "ReapResult",
        "Vm",
        "VmDeleted",
        "VmNetwork",
    ),
    "model.network": (
        "NetworkDestination",
        "NetworkFailure",
        "NetworkRefusal",
        "NetworkTotals",
        "SummaryNetwork",
    ),
    "model.patch": (
        "PatchEntry",
        "PatchResult",
        "PatchSummary",
    ),
    "model.process": (
        "Cleanup",
        "CommandResult",
        "RunResult",
    ),
    "model.result": ("Result",),
    "model.service": (
        "PublishedPort",
        "Service",
        "ServiceList",
        "ServiceLogs",
        "StartedService",
    ),
    "model.shell": (
        "Shell",
        "ShellAttached",
        "ShellClosed",
        "ShellList",
        "ShellRead",
        "ShellSignalled",
        "ShellWritten",
    ),
    "model.project": (
        "AppliedProject",
        "CreatedWorkspace",
        "Project",
        "ProjectService",
        "ProjectTrust",
        "SetupStep",
    ),
    "model.snapshot": (
        "Snapshot",
        "SnapshotCreated",
        "SnapshotDeleted",
        "SnapshotList",
    ),
    "model.summary": (
        "SummaryChange",
        "SummaryChanges",
        "SummaryCommand",
        "SummaryCommands",
        "SummaryEdits",
        "SummaryServices",
        "SummaryShells",
        "SummaryTransfer",
        "SummaryTransfers",
        "WorkspaceSummary",
    ),
    "model.sync": (
        "Skipped",
        "SyncResult",
        "WorkspaceSync",
    ),
    "model.workspace": (
        "ResetWorkspace",
        "Workspace",
        "WorkspaceDeleted",
        "WorkspaceList",
        "WorkspaceReset",
        "WorkspaceSecret",
        "WorkspaceSeed",
    ),
    "model.workspace_exec": (
        "CommandEntry",
        "CommandOutput",
        "WorkspaceExec",
        "WorkspaceLogs",
    ),
    "surfaces.async_sdk": ("AsyncPyro",),
    "surfaces.mcp.server": ("create_server",),
    "surfaces.sdk": ("Pyro",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f"pyro_mcp.{home}"), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
