"""Environments: the curated userlands that machines start from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pyro_mcp.api.params import EnvironmentName, PageLimit, PageOffset
from pyro_mcp.model.environment import Environment, PruneResult
from pyro_mcp.model.environment_list import EnvironmentList
from pyro_mcp.model.page import paged
from pyro_mcp.operations.fields import Param
from pyro_mcp.operations.operation import Effects, operation

if TYPE_CHECKING:
    from pyro_mcp.engine.engine import Engine
    from pyro_mcp.operations.call import Call

Everything = Annotated[bool, Param(help="remove the environments of the catalogue too, unless a machine uses them")]
DryRun = Annotated[bool, Param(help="only say what would be removed")]

_READ = Effects(read_only=True, idempotent=True)


@operation(cli=("env", "list"), tool="vm_list_environments", title="List environments", effects=_READ)
def list_environments(call: Call[Engine], *, limit: PageLimit = 1000, offset: PageOffset = 0) -> EnvironmentList:
    """List the environments of the catalogue and say which are installed."""
    return paged(call.engine.images.list(), "environments", limit, offset)


@operation(cli=("env", "pull"), effects=Effects(idempotent=True, open_world=True))
def pull_environment(call: Call[Engine], environment: EnvironmentName) -> Environment:
    """Install an environment, so that the first machine does not have to wait for it.

    An interrupted pull leaves nothing behind; two at once share the work. What the creation of a machine has begun to
    install goes on when that is cancelled.
    """
    return call.engine.images.pull(call, environment)


@operation(cli=("env", "inspect"), effects=_READ)
def inspect_environment(call: Call[Engine], environment: EnvironmentName) -> Environment:
    """Show one environment: what is in it, where it came from and where it is installed."""
    return call.engine.images.inspect(environment)


@operation(cli=("env", "prune"), effects=Effects(destructive=True, idempotent=True))
def prune_environments(call: Call[Engine], *, all: Everything = False, dry_run: DryRun = False) -> PruneResult:
    """Give back the disk space of what is outdated: images, frozen machines, builds and clones that nothing needs.

    What a machine uses stays. An environment that is removed is built again when it is next needed, which takes minutes
    and gives it the newest packages; a clone of a project is made again.
    """
    return call.engine.fleet.prune(everything=all, dry_run=dry_run)
