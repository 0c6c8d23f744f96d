"""The state of a guest's devices, out of one QEMU and into another. Memory is a file that both map."""

from __future__ import annotations

import os
from pathlib import Path

from pyro_mcp.machines.qemu.qmp import Qmp
from pyro_mcp.machines.qemu.vmm import Vmm


def save(process: Vmm, state: Path) -> None:
    """Stop the guest and write its devices' state to the new file `state`. Its memory stays where it is."""
    monitor = process.connect_monitor()
    try:
        monitor.execute("stop")
        _shared_memory(monitor)
        _to_file(monitor, "migrate", state, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    finally:
        monitor.close()


def load(process: Vmm, state: Path) -> None:
    """Put the frozen `state` into a QEMU that waits for one, and let the guest go on."""
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
