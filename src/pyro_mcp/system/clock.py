"""The clocks of this host, injected wherever time decides, so that tests can turn them.

Lives are measured on the boot clock: it counts through suspend and nobody can set it, so changing the wall clock by a
day ends nothing early and keeps nothing for ever. It starts anew with each boot, hence the boot id beside it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from pyro_mcp.system.process import host_boot_id

NANO = 1_000_000_000


@dataclass
class Clock:
    """The real clocks."""

    boot_id: str = field(default_factory=host_boot_id)

    def wall(self) -> float:
        """Seconds since 1970, as the host believes."""
        return time.time()

    def boot_ns(self) -> int:
        """Nanoseconds since this host booted, suspend included."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def remaining(self, boot_id: str, deadline_ns: int, expires_at: float) -> float:
        """Seconds until a life ends; 0 or less when it has. A life from an earlier boot goes by the wall clock."""
        if boot_id == self.boot_id:
            return (deadline_ns - self.boot_ns()) / NANO
        return expires_at - self.wall()
