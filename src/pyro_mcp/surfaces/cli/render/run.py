"""Run, for a person: the output has been shown already, so only what it does not say is left."""

from __future__ import annotations

from pyro_mcp.model.process import RunResult
from pyro_mcp.surfaces.cli.output import Output
from pyro_mcp.surfaces.cli.render.network import tell_refusals


def after_run(result: RunResult, output: Output) -> None:
    """Say on stderr what the exit code alone does not explain."""
    tell_refusals(result.network_refusals, output, where="")
    if result.hint:
        output.notice(result.hint)
    if result.timed_out:
        output.notice(f"the command was killed after {result.duration_ms / 1000:.1f} s (--timeout-seconds)")
    elif result.signal:
        output.notice(f"the command was ended by {result.signal}")
    if result.execution_mode == "host_compat":
        output.notice("this ran as a plain process of this host, without isolation (--allow-host-compat)")
    if not result.cleanup.deleted:
        output.notice(f"machine {result.vm_id} was not deleted: {result.cleanup.reason}")
