"""Doctor: what this host can do and what is missing. Runs without a node, because the node may be what is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyro_mcp.api.params import Platform
from pyro_mcp.model.doctor import DoctorReport
from pyro_mcp.operations.operation import Effects, operation

if TYPE_CHECKING:
    from pyro_mcp.engine.diagnosis import Diagnosis
    from pyro_mcp.operations.call import Call


@operation(cli=("doctor",), effects=Effects(read_only=True, idempotent=True), local=True)
def diagnose(call: Call[Diagnosis], *, platform: Platform | None = None) -> DoctorReport:
    """Show what this host can do and what is missing, each with its remedy."""
    return call.engine.diagnose(platform)
