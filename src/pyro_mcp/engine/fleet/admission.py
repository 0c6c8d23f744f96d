"""Admission: whether one more machine fits, decided before anything is made."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from pyro_mcp.errors import Capacity, InvalidArgument
from pyro_mcp.model.count import count_of
from pyro_mcp.settings import Settings
from pyro_mcp.store.machines import LIVE, MachineRow

VCPUS_PER_CORE = 4


Overhead = Callable[[MachineRow], int]
"""The MiB that a machine takes of the host besides its own memory."""


def committed_mib(rows: Iterable[MachineRow], overhead: Overhead) -> int:
    """Memory promised to machines that run, or are on their way up or down."""
    return sum(row.mem_mib + overhead(row) for row in rows if row.state in LIVE)


def check_size(vcpu_count: int) -> None:
    """Raises `InvalidArgument` for more virtual processors than make sense here."""
    cores = os.cpu_count() or 1
    if vcpu_count > cores * VCPUS_PER_CORE:
        raise InvalidArgument(
            f"cannot make a machine with {count_of(vcpu_count, 'vCPU')}: this host has {count_of(cores, 'core')}",
            hint=f"Ask for at most {cores * VCPUS_PER_CORE}",
        )


def check_place(rows: list[MachineRow], settings: Settings) -> None:
    """Raises `Capacity` when there are as many machines as may be."""
    if len(rows) >= settings.max_machines:
        raise Capacity(
            f"cannot make another machine: there are {len(rows)} of at most {settings.max_machines}",
            hint="Delete some, wait until they expire, or raise max_machines (PYRO_MAX_MACHINES) and end the node that"
            " was started with this: `pyro node stop`",
        )


def check_memory(used: int, mem_mib: int, overhead_mib: int, settings: Settings) -> None:
    """Raises `Capacity` when a machine of `mem_mib`, which takes `overhead_mib` besides, would exceed the memory limit
    of which `used` are committed."""
    free = settings.memory_limit_mib - used - overhead_mib
    if mem_mib <= free:
        return
    hint = f"Ask for at most {free} MiB, or end other machines" if free >= 128 else "Stop or delete other machines"
    if used == 0:
        hint = f"Ask for at most {free} MiB" if free >= 128 else "This host has too little for any"
    besides = f", which takes {overhead_mib} MiB besides" if overhead_mib else ""
    raise Capacity(
        f"cannot start a machine of {mem_mib} MiB{besides}: {used} of {settings.memory_limit_mib} MiB are taken",
        hint=f"{hint}; the limit is memory_limit_mib (PYRO_MEMORY_LIMIT_MIB)",
    )
