"""host_time: the guest's wall clock follows the host's.

It is set when the guest gets its identity. What the host said then may have come late, on a busy host by seconds, and a
host that slept takes its guests' time away. So each command brings the host's time along; what came quickest tells how
far the clock is behind. Only ever forward, and by the difference: a user may have set the clock on purpose.
"""

from __future__ import annotations

import threading
import time

BEHIND_NS = 200_000_000
"""What is let be: less than anybody sees, and a step is felt by programs that measure."""


class HostTime:
    """The host's time as far as it is known here, in nanoseconds since 1970."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ahead: int | None = None

    def set(self, time_ns: int) -> None:
        """Set the clock to the host's, which was `time_ns` a moment ago."""
        with self._lock:
            self._ahead = time_ns - time.monotonic_ns()
            time.clock_settime_ns(time.CLOCK_REALTIME, time_ns)

    def catch_up(self, time_ns: int) -> None:
        """The host's clock was `time_ns` a moment ago: step forward by what this one is behind."""
        with self._lock:
            if self._ahead is None:
                return
            behind = time_ns - time.monotonic_ns() - self._ahead
            if behind > BEHIND_NS:
                self._ahead += behind
                time.clock_settime_ns(time.CLOCK_REALTIME, time.time_ns() + behind)
