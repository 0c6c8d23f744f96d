"""A guest's state: when it may be frozen, and its way into a file and back."""

from __future__ import annotations

import os
import re
from pathlib import Path

from pyro_mcp.errors import MachineFailed
from pyro_mcp.machines.qemu.qmp import Qmp
from pyro_mcp.machines.qemu.vmm import Vmm

READY = re.compile(rb"pyro-agent: ready after [0-9.]+ s, clock (\S+)\s")
"""What the agent says on the console when it waits for its first connection, which a template must not have had."""
CLOCKS = {b"tsc", b"tsc-early", b"kvm-clock", b"arch_sys_counter"}
"""Those that keep the host's time. The others count ticks, which a busy host loses."""


class WrongClock(MachineFailed):
    """The guest booted, and counts time by something that loses some."""


def wait_ready(process: Vmm, seconds: float) -> None:
    """Wait until the guest may be frozen: its agent serves, and its clock keeps time, since all later ones get the
    same. Raises `WrongClock`, or `MachineFailed` when the machine dies or time is up first."""
    clock = process.wait_console(READY, seconds)[1]
    if clock not in CLOCKS:
        raise WrongClock(
            f"cannot start the guest: its clock is {clock.decode(errors='replace')[:32]}, which loses time",
            hint="Try again when this host is less busy; its own clock should be tsc, see"
            " /sys/devices/system/clocksource/clocksource0/current_clocksource",
        )


def save_state(process: Vmm, state: Path) -> None:
    """Stop the guest and write its device state; its memory is in its file already."""
    monitor = process.connect_monitor()
    try:
        monitor.execute("stop")
        _shared_memory(monitor)
        _to_file(monitor, "migrate", state, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    finally:
        monitor.close()


def load_state(process: Vmm, state: Path) -> None:
    """Let a QEMU that waits for it go on from `state`."""
    monitor = process.connect_monitor()
    try:
        _shared_memory(monitor)
        _to_file(monitor, "migrate-incoming", state, os.O_RDONLY)
        monitor.execute("cont")
    finally:
        monitor.close()


def _shared_memory(monitor: Qmp) -> None:
    names = ["x-ignore-shared", "events"]
    capabilities = [{"capability": name, "state": True} for name in names]
    monitor.execute("migrate-set-capabilities", capabilities=capabilities)


def _to_file(monitor: Qmp, command: str, path: Path, flags: int) -> None:
    """Move device state through a descriptor: QEMU's sandbox forbids it the helper that `exec:` would spawn."""
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        monitor.send_descriptor("state", descriptor)
    finally:
        os.close(descriptor)
    monitor.execute(command, uri="fd:state")
    monitor.wait_migration()
