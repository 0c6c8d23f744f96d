"""After `kill -9` of the node at every fault point of a service's life: it runs and is reached, or it is gone."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import fleetlab
from fleetlab import engine_at, processes_of

from pyro_mcp.engine.engine import Engine
from pyro_mcp.errors import NotFound
from pyro_mcp.node.adopt import reconcile


def free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        return one.getsockname()[1], two.getsockname()[1]


def killed_at(state_dir: Path, step: int) -> tuple[str, int]:
    """The step at which the node died, and the port of this host."""
    state_dir.mkdir()
    inside, outside = free_ports()
    (state_dir / "ports").write_text(f"{inside} {outside}")
    argv = [sys.executable, fleetlab.__file__, str(state_dir), "service", str(step)]
    child = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    name = child.stdout.strip().splitlines()[-1]
    assert child.returncode == (0 if name == "done" else -signal.SIGKILL), child.stderr
    return name, outside


def reached(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 10) as connection:
            return connection.recv(99) == b"hello"
    except ConnectionRefusedError:
        return False


def assert_settled(engine: Engine, acks: list[str], port: int, name: str) -> None:
    """It is there and reached, or it is gone; never the one without the other."""
    try:
        found = engine.services.status("w", "web")
    except NotFound:
        assert not acks, name
        assert not reached(port), name
        return
    assert found.state in ("ready", "stopped"), (name, found)
    if name.endswith("service started"):
        assert found.state == "ready"
    if "stopped" in acks:
        assert found.state == "stopped"
    assert reached(port) == (found.state == "ready"), (name, found)
    if found.state == "ready":
        assert [one.host_port for one in found.published_ports] == [port]
        engine.services.stop("w", "web")
    assert not reached(port), name
    assert not any("create_server" in words for words in command_lines(engine)), name


def command_lines(engine: Engine) -> list[str]:
    return [
        Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace")
        for pid in processes_of(engine.settings.state_dir)
        if Path(f"/proc/{pid}").exists()
    ]


def check(state_dir: Path, port: int, name: str) -> None:
    acks = (state_dir / "acks").read_text().splitlines() if (state_dir / "acks").exists() else []
    engine = engine_at(state_dir)
    try:
        reconcile(engine)
        for row in engine.registry.rows():
            assert_settled(engine, acks, port, name)
            engine.lifecycle.delete(row.workspace_id)
        assert engine.database.check() == "ok"
        assert list(processes_of(state_dir)) == [], name
        assert not reached(port), name
    finally:
        engine.close()


def test_a_service_killed_at_every_step_runs_or_is_gone(tmp_path: Path) -> None:
    names: list[str] = []
    while True:
        state_dir = tmp_path / f"{len(names)}"
        name, port = killed_at(state_dir, len(names) + 1)
        if name == "done":
            break
        names.append(name)
        check(state_dir, port, f"{len(names)}: {name}")
    assert {"service recorded", "service ports open", "service started", "service over"} <= set(names)
