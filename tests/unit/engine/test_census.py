"""Machines that come and go, a third of them without ever having come up: after many as little is left as after few."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fleetlab import SIZE, CallRecorder, engine_at, processes_of

from pyro_mcp.api import exec as workspace_exec
from pyro_mcp.api import workspace
from pyro_mcp.engine.engine import Engine
from pyro_mcp.errors import MachineFailed
from pyro_mcp.machines.host.driver import HostDriver

FAILING = 0.3
SETTLE_SECONDS = 10.0


class Unreliable(HostDriver):
    """Of its machines some never come to be, and some are up and then said to have failed."""

    def __init__(self) -> None:
        self.chance = random.Random(34)
        self.failed = 0

    def launch(self, spec: Any, progress: Any) -> Any:
        luck = self.chance.random()
        self.failed += luck < FAILING
        if luck < FAILING / 2:
            raise MachineFailed("cannot boot: bad luck")
        machine = super().launch(spec, progress)
        if luck < FAILING:
            machine.terminate()
            raise MachineFailed("cannot boot: it did not stay")
        return machine


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = engine_at(tmp_path / "state", driver=Unreliable())
    yield engine
    engine.close()


def cycle(engine: Engine, number: int) -> bool:
    """A workspace, or every third time a one-shot run; whether it came up."""
    call = CallRecorder(engine).call
    try:
        if number % 3 == 0:
            assert engine.vms.run(call, "debian:12", command="echo 1", timeout_seconds=20, stdin=None, **SIZE).stdout
            return True
        made = workspace.create_workspace.function(call, environment="debian:12", mem_mib=128, allow_host_compat=True)
    except MachineFailed:
        return False
    run = workspace_exec.exec_workspace.function(call, made.workspace_id, command=f"echo {number}")
    assert run.stdout == f"{number}\n"
    engine.lifecycle.delete(made.workspace_id)
    return True


def census(engine: Engine) -> dict[str, int]:
    state = engine.settings.state_dir
    tables = [row[0] for row in engine.database.rows("SELECT name FROM sqlite_master WHERE type='table'")]
    return {
        "processes": len(list(processes_of(state))),
        "threads": threading.active_count(),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "files": sum(1 for _ in state.rglob("*")),
        "rows": sum(engine.database.rows(f"SELECT count(*) FROM {table}")[0][0] for table in tables),
        "locks": len(engine.registry._locks) + len(engine.fleet._locks),
    }


@pytest.mark.parametrize("cycles", [30, pytest.param(200, marks=pytest.mark.slow)])
def test_after_many_as_little_is_left_as_after_few(engine: Engine, cycles: int) -> None:
    for number in range(6):
        cycle(engine, number)
    before = settled(engine, None)
    came_up = [cycle(engine, number) for number in range(cycles)]
    assert 0.1 < came_up.count(False) / cycles < 0.6
    after = settled(engine, before)
    assert not more(after, before), (before, after)
    while not cycle(engine, 1):
        pass


def more(now: dict[str, int], then: dict[str, int]) -> list[str]:
    """Of what there is more. Less is no fault: what tests before this one left may go at any time."""
    return [name for name in now if now[name] > then[name]]


def settled(engine: Engine, like: dict[str, int] | None) -> dict[str, int]:
    """The census once threads that are on their way out are gone."""
    deadline = time.monotonic() + SETTLE_SECONDS
    last: dict[str, int] | None = None
    while time.monotonic() < deadline:
        now = census(engine)
        if now == last if like is None else not more(now, like):
            return now
        last = now
        time.sleep(0.2)
    return census(engine)
