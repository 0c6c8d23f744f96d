"""The host's memory."""

from __future__ import annotations

from pathlib import Path


def available_mib() -> int:
    """What programs may still take without swapping, as the kernel estimates it."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) // 1024
    return 0
