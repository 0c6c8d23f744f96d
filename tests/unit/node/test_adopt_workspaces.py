"""After `kill -9` of the node at every fault point of a workspace's life: whole or absent, nothing lost."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import fleetlab
from fleetlab import CallRecorder, engine_at, processes_of

from pyro_mcp.engine.engine import Engine
from pyro_mcp.node.adopt import reconcile

CONTENT = {
    "": {"one"},
    "created": {"one", "two"},
    "wrote two": {"two"},
    "snapshot": {"two", "three"},
    "wrote three": {"three", "two"},
    "reset": {"two"},
    "started": {"two"},
    "unkept": {"two"},
}
"""The last step that was acknowledged → what the file may hold then."""


def killed_at(state_dir: Path, step: int) -> str:
    argv = [sys.executable, fleetlab.__file__, str(state_dir), "workspace", str(step)]
    child = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    name = child.stdout.strip().splitlines()[-1]
    assert child.returncode == (0 if name == "done" else -signal.SIGKILL), child.stderr
    return name


def read(engine: Engine) -> str:
    done = engine.commands.exec(
        CallRecorder(engine).call, "w", command="cat file", timeout_seconds=20, wait_seconds=None, stdin=None
    )
    return done.stdout.strip()


def assert_whole(engine: Engine, acks: list[str], name: str) -> None:
    """The one workspace that there may be can be used, and holds what was acknowledged."""
    status = engine.lifecycle.status("w")
    assert status.state in ("started", "stopped"), name
    assert status.running_command_count == 0, name
    assert all(row.machine_id == status.metadata["machine_id"] for row in engine.fleet.rows()), name
    if status.last_command is not None:
        assert status.last_command.state in ("finished", "lost"), name
    engine.lifecycle.start(CallRecorder(engine).call, "w")
    assert read(engine) in CONTENT[acks[-1] if acks else ""], name
    kept = [one.snapshot_name for one in engine.snapshots.listing("w")]
    if "snapshot" in acks and "started" not in acks:
        assert "s" in kept, name
    for snapshot in kept:
        engine.snapshots.reset(CallRecorder(engine).call, "w", snapshot)
        assert read(engine) == {"s": "two", "baseline": "one"}[snapshot], name


def assert_nothing(engine: Engine) -> None:
    state_dir = engine.settings.state_dir
    assert engine.registry.rows() == []
    assert engine.fleet.rows() == []
    assert list((state_dir / "workspaces").glob("*")) == []
    assert list((state_dir / "machines").glob("*")) == []
    assert list(processes_of(state_dir)) == []


def check(state_dir: Path, name: str) -> None:
    acks = (state_dir / "acks").read_text().splitlines() if (state_dir / "acks").exists() else []
    engine = engine_at(state_dir)
    try:
        reconcile(engine)
        assert engine.database.check() == "ok"
        rows = engine.registry.rows()
        files = {path.name for path in state_dir.glob("workspaces/*")}
        assert files == {row.workspace_id for row in rows}, name
        if "created" in acks and "unkept" not in acks:
            assert len(rows) == 1, name
        for row in rows:
            assert_whole(engine, acks, name)
            engine.lifecycle.delete(row.workspace_id)
        assert_nothing(engine)
    finally:
        engine.close()


def test_a_life_killed_at_every_step_is_whole_or_absent(tmp_path: Path) -> None:
    names: list[str] = []
    while (name := killed_at(tmp_path / f"{len(names)}", len(names) + 1)) != "done":
        names.append(name)
        check(tmp_path / f"{len(names) - 1}", f"{len(names)}: {name}")
    assert {"workspace announced", "workspace seeded", "workspace ready", "command recorded"} <= set(names)
    assert {"snapshot saved", "snapshot recorded", "reset furnished", "reset recorded"} <= set(names)
    assert {"snapshot forgotten", "workspace deleting", "workspace erased"} <= set(names)
