"""Fifty workspaces at once: each its own, and the one too many is refused before anything is made."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fleetlab import CallRecorder, engine_at, processes_of

from pyro_mcp.api import exec as workspace_exec
from pyro_mcp.api import service, workspace
from pyro_mcp.engine.engine import Engine
from pyro_mcp.errors import Capacity

MOST, WANTED = 50, 60


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = engine_at(tmp_path / "state", max_machines=MOST)
    yield engine
    engine.close()


def create(engine: Engine, number: int) -> str | None:
    try:
        return workspace.create_workspace.function(
            CallRecorder(engine).call,
            environment="debian:12",
            name=f"n{number}",
            mem_mib=128,
            network_policy="egress+published-ports",
            allow_host_compat=True,
        ).workspace_id
    except Capacity:
        return None


def live(engine: Engine, ref: str) -> tuple[str, int]:
    """Write into it, and publish a port of it; what it holds and the port on this host."""
    call = CallRecorder(engine).call
    command = f"echo {ref} >> mine; sleep 0.2; cat mine"
    said = workspace_exec.exec_workspace.function(call, ref, command=command).stdout
    started = service.start_service.function(call, ref, "web", command="sleep 600", published_ports=[8000])
    return said.strip(), started.published_ports[0].host_port


def test_fifty_at_once_and_not_one_more(engine: Engine) -> None:
    with ThreadPoolExecutor(WANTED) as pool:
        made = [ref for ref in pool.map(lambda number: create(engine, number), range(WANTED)) if ref]
        assert len(made) == len(set(made)) == MOST
        found = list(pool.map(lambda ref: live(engine, ref), made))
    assert [said for said, _ in found] == made
    assert len({port for _, port in found}) == MOST
    assert create(engine, WANTED) is None
    state = engine.settings.state_dir
    assert {path.name for path in state.glob("workspaces/*")} == set(made)
    engine.lifecycle.delete(made.pop())
    again = create(engine, WANTED)
    assert again is not None
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(engine.lifecycle.delete, [*made, again]))
    assert [*state.glob("workspaces/*"), *state.glob("machines/*"), *processes_of(state)] == []
