"""Environments: the curated userlands that machines start from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyro_mcp.api.params import EnvironmentName
from pyro_mcp.model.environment import Environment, PruneResult
from pyro_mcp.model.environment_list import EnvironmentList
from pyro_mcp.operations.operation import Effects, operation

if TYPE_CHECKING:
    from pyro_mcp.engine.engine import Engine
    from pyro_mcp.operations.call import Call

_READ = Effects(read_only=True, idempotent=True)


@operation(cli=("env", "list"), tool="vm_list_environments", title="List environments", effects=_READ)
def list_environments(call: Call[Engine]) -> EnvironmentList:
    """List the environments of the catalogue and say which are installed."""
    return call.engine.images.list()


@operation(cli=("env", "pull"), effects=Effects(idempotent=True, open_world=True))
def pull_environment(call: Call[Engine], environment: EnvironmentName) -> Environment:
    """Install an environment, so that the first machine does not have to wait for it.

    An interrupted pull leaves nothing behind; two at once share the work.
    """
    return call.engine.images.pull(call, environment)


@operation(cli=("env", "inspect"), effects=_READ)
def inspect_environment(call: Call[Engine], environment: EnvironmentName) -> Environment:
    """Show one environment: what is in it, where it came from and where it is installed."""
    return call.engine.images.inspect(environment)


@operation(cli=("env", "prune"), effects=Effects(destructive=True, idempotent=True))
def prune_environments(call: Call[Engine]) -> PruneResult:
    """Remove images that no machine uses and no current environment needs, and clones of projects, and give back their
    disk space."""
    return call.engine.fleet.prune()
