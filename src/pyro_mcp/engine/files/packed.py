"""The agent's report on a packed tree: the entries that it left out or changed."""

from __future__ import annotations

from dataclasses import dataclass, field

from pyro_mcp.engine.files.files import Count
from pyro_mcp.engine.files.sync import SKIPPED_SHOWN
from pyro_mcp.model.sync import Skipped


@dataclass(frozen=True)
class Packed:
    """The first of what was left out, and of what changed while it was read; how many there were."""

    skipped: list[Skipped] = field(default_factory=list)
    skipped_count: Count = 0
    changed: list[Skipped] = field(default_factory=list)
    changed_count: Count = 0

    @property
    def left_out(self) -> list[Skipped]:
        """The first of both."""
        return [*self.skipped, *self.changed][:SKIPPED_SHOWN]

    @property
    def left_out_count(self) -> int:
        """All of both."""
        return self.skipped_count + self.changed_count
