"""Size: what a machine is given of its host."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MachineSize:
    """Virtual processors, memory, and the most that its scratch disk may take."""

    vcpu_count: int
    mem_mib: int
    scratch_mib: int
