"""Doctor results: what this host can do, and what is missing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pyro_mcp.model.result import Result

CheckStatus = Literal["ok", "warning", "missing"]


@dataclass(frozen=True, kw_only=True)
class DoctorCheck(Result):
    """One finding. `missing` stops guests from running, `warning` does not; `remedy` says what to do about either."""

    name: str
    status: CheckStatus
    detail: str
    remedy: str | None = None


@dataclass(frozen=True, kw_only=True)
class DoctorReport(Result):
    """The host seen as a whole. `ready`: a guest can run; `isolation`: the kind it would get, null when none.

    `versions` names the programs and images in use, `paths` the directories of state and cache.
    """

    platform: str
    ready: bool
    isolation: str | None
    checks: list[DoctorCheck]
    versions: dict[str, str] = field(default_factory=dict)
    paths: dict[str, str] = field(default_factory=dict)
