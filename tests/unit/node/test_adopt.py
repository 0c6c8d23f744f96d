"""After `kill -9` of the node, at every fault point: the next one adopts what lives and removes the debris."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fleetlab
import pytest
from fleetlab import SIZE, CallRecorder, engine_at, processes_of

from pyro_mcp.engine.engine import Engine
from pyro_mcp.errors import MachineFailed
from pyro_mcp.machines.host.driver import HostDriver
from pyro_mcp.node.adopt import reconcile


@contextlib.contextmanager
def next_node(state_dir: Path, **options: Any) -> Iterator[Engine]:
    """The engine of a node that comes after one that died."""
    engine = engine_at(state_dir, **options)
    reconcile(engine)
    yield engine
    engine.close()


def killed_at(state_dir: Path, action: str, step: int) -> str:
    """Run `action` in a process that kills itself at its `step`-th fault point; the point's name, or `done`."""
    argv = [sys.executable, fleetlab.__file__, str(state_dir), action, str(step)]
    child = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    name = child.stdout.strip()
    assert child.returncode == (0 if name == "done" else -signal.SIGKILL), child.stderr
    return name


def assert_consistent(engine: Engine) -> None:
    """Store, directories and processes agree, and the store is sound."""
    assert engine.database.check() == "ok"
    rows = {row.machine_id: row for row in engine.fleet.rows()}
    home = engine.settings.state_dir / "machines"
    assert {path.name for path in home.glob("*")} == set(rows)
    alive = {seen.row.machine_id for seen in engine.fleet.list_processes() if seen.pid}
    assert alive == {name for name, row in rows.items() if row.state == "running"}
    if not alive:
        assert list(processes_of(engine.settings.state_dir)) == []


def test_a_one_shot_run_killed_at_every_step_leaves_nothing(tmp_path: Path) -> None:
    names = []
    while (name := killed_at(tmp_path / f"{len(names)}", "run", len(names) + 1)) != "done":
        names.append(name)
        with next_node(tmp_path / f"{len(names) - 1}") as engine:
            assert engine.fleet.rows() == [], name
            assert_consistent(engine)
            fleetlab.act_run(engine)
    assert {"admitted", "directory made", "launched", "running", "executed", "deleting", "erased"} <= set(names)


def test_a_life_killed_at_every_step_can_go_on(tmp_path: Path) -> None:
    names = []
    while (name := killed_at(tmp_path / f"{len(names)}", "life", len(names) + 1)) != "done":
        names.append(name)
        with next_node(tmp_path / f"{len(names) - 1}") as engine:
            assert_consistent(engine)
            for row in engine.fleet.rows():
                assert row.state in ("created", "running", "stopped"), name
                engine.vms.start(CallRecorder(engine).call, row.machine_id)
                done = engine.vms.exec(
                    CallRecorder(engine).call, row.machine_id, command="echo alive", timeout_seconds=10, stdin=None
                )
                assert done.stdout == "alive\n", name
            assert engine.fleet.rows() == []
            assert_consistent(engine)
    assert {"created", "claimed", "launched", "running", "stopping", "powered off", "stopped", "erased"} <= set(names)


def a_running_machine(state_dir: Path) -> tuple[str, int]:
    """Made by a node that is then gone without a word; its id and process."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        engine = engine_at(state_dir)
        made = engine.vms.create(CallRecorder(engine).call, "debian:12", **SIZE)
        engine.vms.start(CallRecorder(engine).call, made.vm_id)
        os.write(write, f"{made.vm_id} {engine.fleet.list_processes()[0].pid}".encode())
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(write)
    with open(read) as answer:
        name, pid = answer.read().split()
    return name, int(pid)


def test_a_live_machine_is_adopted_once_and_again(tmp_path: Path) -> None:
    name, pid = a_running_machine(tmp_path / "state")
    for _ in range(2):
        with next_node(tmp_path / "state") as engine:
            (seen,) = engine.fleet.list_processes()
            assert (seen.row.machine_id, seen.pid, seen.row.state) == (name, pid, "running")
    with next_node(tmp_path / "state") as engine:
        died = threading.Event()
        engine.on_change(died.set)
        os.kill(pid, signal.SIGKILL)
        assert died.wait(10), "the death of an adopted machine goes unnoticed"
        assert engine.fleet.get(name).state == "failed"
        engine.vms.delete(name)
        assert_consistent(engine)


def test_a_machine_that_died_meanwhile_is_failed_not_confused(tmp_path: Path) -> None:
    name, pid = a_running_machine(tmp_path / "state")
    os.kill(pid, signal.SIGKILL)
    with next_node(tmp_path / "state") as engine:
        row = engine.fleet.get(name)
        assert (row.state, row.reason) == ("failed", "it ended while no node watched it")
        engine.vms.delete(name)
        assert_consistent(engine)


def test_a_reused_pid_is_never_touched(tmp_path: Path) -> None:
    name, pid = a_running_machine(tmp_path / "state")
    os.kill(pid, signal.SIGKILL)
    bystander = subprocess.Popen(["sleep", "60"])
    note = tmp_path / "state" / "machines" / name / "agent.json"
    note.write_text(note.read_text().replace(str(pid), str(bystander.pid)))
    with next_node(tmp_path / "state") as engine:
        assert engine.fleet.get(name).state == "failed"
        engine.vms.delete(name)
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()


def test_debris_without_a_row_is_removed(tmp_path: Path) -> None:
    debris = tmp_path / "state" / "machines" / "vm-00000000dead"
    debris.mkdir(parents=True)
    (debris / "scratch.ext4").write_bytes(b"x" * 4096)
    nameless = subprocess.Popen(["sleep", "60"], cwd=debris)
    outside = subprocess.Popen(["sleep", "60"], cwd=tmp_path)
    with next_node(tmp_path / "state") as engine:
        assert_consistent(engine)
    assert not debris.exists()
    assert nameless.wait(10) == -signal.SIGKILL
    assert outside.poll() is None
    outside.kill()
    outside.wait()


def test_what_expired_while_no_node_ran_is_reaped(tmp_path: Path) -> None:
    name, _ = a_running_machine(tmp_path / "state")
    with next_node(tmp_path / "state") as engine:
        later = engine.clock.boot_ns() + 601 * 10**9
        engine.clock.boot_ns = lambda: later  # type: ignore[method-assign]
        assert engine.vms.reap().vm_ids == [name]
        assert_consistent(engine)


@pytest.mark.parametrize("error", [MachineFailed("cannot adopt: no"), OSError(errno.EMFILE, "no descriptor")])
def test_one_that_resists_does_not_keep_the_node_from_starting(tmp_path: Path, error: Exception) -> None:
    name, _ = a_running_machine(tmp_path / "state")

    class Grumpy(HostDriver):
        def adopt(self, machine_id: str, directory: Path, network: Any = None) -> Any:
            raise error

    with next_node(tmp_path / "state", driver=Grumpy()) as engine:
        assert [row.machine_id for row in engine.fleet.rows()] == [name]
    with next_node(tmp_path / "state") as engine:
        engine.vms.delete(name)
        assert_consistent(engine)


@pytest.mark.parametrize("force", [False, True])
def test_stop_with_machines(tmp_path: Path, force: bool) -> None:
    from pyro_mcp.errors import Conflict
    from pyro_mcp.node import lifecycle

    class Hidden:
        def __init__(self, engine: Engine) -> None:
            self.engine, self.hidden = engine, False

        def hide(self) -> None:
            self.hidden = True

    name, _ = a_running_machine(tmp_path / "state")
    with next_node(tmp_path / "state") as engine:
        node: Any = Hidden(engine)
        if force:
            assert lifecycle.stop(node, {"force": True}) == {"stopped": True, "machine_count": 1}
            assert engine.fleet.get(name).state == "stopped"
        else:
            with pytest.raises(Conflict, match=name):
                lifecycle.stop(node, {})
            assert not node.hidden
            engine.vms.stop(name)
            assert lifecycle.stop(node, {}) == {"stopped": True, "machine_count": 0}
            assert engine.fleet.get(name).state == "stopped"
        engine.vms.delete(name)
        assert_consistent(engine)


def test_what_a_birth_left_is_found_where_the_state_directory_is_a_link(tmp_path: Path) -> None:
    """The kernel tells where a process works without the links that led there."""
    (tmp_path / "real" / "machines" / "vm-0123456789ab").mkdir(mode=0o700, parents=True)
    (tmp_path / "state").symlink_to("real")
    left = subprocess.Popen(["sleep", "300"], cwd=tmp_path / "real" / "machines" / "vm-0123456789ab")
    try:
        with next_node(tmp_path / "state"):
            assert left.wait(5) == -signal.SIGKILL
    finally:
        left.kill()
        left.wait()
