"""Reconcile on open: bring processes and directories in line with the store, whatever ended the last node.

Machines that run go on running and are taken over. What belonged to a one-shot call is removed, because its caller
lost the connection when the node died. An intent without an outcome is undone, and a directory or process that the
store does not know is removed. Nothing is judged by a pid alone (see `system.process.Identity`).
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
from pathlib import Path

from pyro_mcp.engine.engine import Engine
from pyro_mcp.errors import PyroError
from pyro_mcp.machines.driver import Machine
from pyro_mcp.store.machines import MachineRow, Machines
from pyro_mcp.system.atomic import disk_errors
from pyro_mcp.system.process import wait_pidfd

_log = logging.getLogger(__name__)

DEATH_SECONDS = 5.0


def reconcile(engine: Engine) -> None:
    """Bring processes, directories and rows in line. A machine that fails is logged and left as it is."""
    machines = Machines(engine.database)
    for row in machines.list():
        try:
            _recover(engine, machines, row)
        except (PyroError, OSError) as error:
            _log.warning(f"cannot recover {row.machine_id}: {error}")
    engine.lifecycle.recover()
    _remove_unknown(engine, {row.machine_id for row in machines.list()})
    _empty_pool(engine.fleet.pool.home)


def _recover(engine: Engine, machines: Machines, row: MachineRow) -> None:
    machine = _find(engine, row)
    if row.one_shot or row.state in ("creating", "deleting"):
        _end(engine, row.machine_id, machine)
        engine.fleet.remove(row.machine_id, "its caller went away with the last node")
    elif row.state == "running" and machine is not None:
        engine.fleet.adopt(row, machine)
    elif row.state == "running":
        _end(engine, row.machine_id, None)
        machines.fail(row.machine_id, "it ended while no node watched it")
    else:
        _end(engine, row.machine_id, machine)
        if row.state in ("starting", "stopping"):
            machines.set_state(row.machine_id, "stopped", reason="a start or stop was interrupted")


def _find(engine: Engine, row: MachineRow) -> Machine | None:
    directory = engine.fleet.directory(row.machine_id)
    if not directory.is_dir():
        return None
    driver = engine.drivers.by_isolation(row.isolation)
    network = engine.networks.relink(row) if driver.capabilities.network else None
    return driver.adopt(row.machine_id, directory, network)


def _end(engine: Engine, machine_id: str, machine: Machine | None) -> None:
    if machine is not None:
        machine.terminate()
    _kill_inside(engine.fleet.directory(machine_id))


def _kill_inside(directory: Path) -> None:
    """End processes of ours that work in a machine's directory: provisioning that was cut off before it recorded the
    process. Drivers start their process there and nobody else has a reason to be there."""
    directory = directory.resolve()  # As the kernel reports it, links in the state directory's path followed.
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            descriptor = os.pidfd_open(int(entry.name))
        except OSError:
            continue
        try:
            if Path(os.readlink(entry / "cwd").removesuffix(" (deleted)")).is_relative_to(directory):
                _log.info(f"ending process {entry.name}, left in {directory}")
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                wait_pidfd(descriptor, DEATH_SECONDS)
        except OSError:
            continue
        finally:
            os.close(descriptor)


def _empty_pool(home: Path) -> None:
    """What the last node had made ahead is nobody's."""
    if home.is_dir():
        _kill_inside(home)
        with disk_errors("empty the pool"):
            shutil.rmtree(home)


def _remove_unknown(engine: Engine, known: set[str]) -> None:
    """Directories without a row: the row goes last on deletion and comes first on creation, so these are debris."""
    home = engine.fleet.directory("any").parent
    for directory in home.iterdir() if home.is_dir() else ():
        if directory.name not in known:
            _log.info(f"removing {directory}, which no machine owns")
            _kill_inside(directory)
            engine.fleet.erase(directory.name)
