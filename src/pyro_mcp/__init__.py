"""pyro: disposable sandboxes in real virtual machines. `__all__` is what a program may rely on.

Everything is imported on first use, so that `import pyro_mcp` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyro_mcp.version import VERSION as __version__

if TYPE_CHECKING:
    from pyro_mcp.errors import PyroError
    from pyro_mcp.model.environment import Environment, PruneResult
    from pyro_mcp.model.environment_list import EnvironmentList
    from pyro_mcp.model.machine import ReapResult, Vm, VmDeleted, VmNetwork
    from pyro_mcp.model.process import Cleanup, CommandResult, RunResult
    from pyro_mcp.model.result import Result
    from pyro_mcp.surfaces.mcp import create_server
    from pyro_mcp.surfaces.sdk import Pyro

__all__ = [
    "Cleanup",
    "CommandResult",
    "Environment",
    "EnvironmentList",
    "PruneResult",
    "Pyro",
    "PyroError",
    "ReapResult",
    "Result",
    "RunResult",
    "Vm",
    "VmDeleted",
    "VmNetwork",
    "__version__",
    "create_server",
]

_HOMES = {
    "surfaces.sdk": ("Pyro",),
    "surfaces.mcp": ("create_server",),
    "errors": ("PyroError",),
    "model.environment": ("Environment", "PruneResult"),
    "model.environment_list": ("EnvironmentList",),
    "model.machine": ("ReapResult", "Vm", "VmDeleted", "VmNetwork"),
    "model.process": ("Cleanup", "CommandResult", "RunResult"),
    "model.result": ("Result",),
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
