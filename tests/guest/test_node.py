"""Node and engine over real guests: a kill of the node at any step, of QEMU in the middle of a command, adoption."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from pyro_mcp.engine.engine import Engine
from pyro_mcp.errors import MachineFailed
from pyro_mcp.machines.driver import Image
from pyro_mcp.node.adopt import reconcile

pytestmark = pytest.mark.guest


@pytest.fixture
def lab(environment: Image) -> ModuleType:
    sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "support"))
    import fleetlab

    return fleetlab


@pytest.fixture
def next_node(lab: ModuleType) -> Callable[[Path], Engine]:
    def make(state_dir: Path) -> Engine:
        engine: Engine = lab.guest_engine_at(state_dir)
        reconcile(engine)
        return engine

    return make


def test_a_run_killed_at_every_step_leaves_no_guest(
    tmp_path: Path, lab: ModuleType, next_node: Callable[[Path], Engine]
) -> None:
    names: list[str] = []
    while True:
        state_dir = tmp_path / f"{len(names)}"
        argv = [sys.executable, lab.__file__, str(state_dir), "guest", str(len(names) + 1), "guest"]
        child = subprocess.run(argv, capture_output=True, text=True, timeout=180, check=False)
        names.append(child.stdout.strip())
        if names[-1] == "done":
            break
        assert child.returncode == -signal.SIGKILL, child.stderr
        engine = next_node(state_dir)
        assert engine.fleet.rows() == [], names[-1]
        assert list((state_dir / "machines").glob("*")) == [], names[-1]
        assert list(lab.processes_of(state_dir)) == [], names[-1]
        engine.close()
    assert {"admitted", "leased", "launched", "running", "executed", "terminated"} <= set(names)


def test_a_guest_killed_during_its_command_is_told_and_removed(
    tmp_path: Path, lab: ModuleType, next_node: Callable[[Path], Engine]
) -> None:
    engine = next_node(tmp_path)
    recorder = lab.CallRecorder(engine)

    def kill() -> None:
        recorder.wrote.wait()
        os.kill(engine.fleet.list_processes()[0].pid or 0, signal.SIGKILL)

    threading.Thread(target=kill).start()
    with pytest.raises(MachineFailed, match="is gone"):
        engine.vms.run(
            recorder.call, "debian:12", command="echo here; sleep 99", timeout_seconds=60, stdin=None, **lab.GUEST_SIZE
        )
    assert engine.fleet.rows() == []
    assert list(lab.processes_of(tmp_path)) == []
    engine.close()


def test_a_guest_is_adopted_stopped_and_started_with_its_disk(
    tmp_path: Path, lab: ModuleType, next_node: Callable[[Path], Engine]
) -> None:
    engine = next_node(tmp_path)
    call = lab.CallRecorder(engine).call
    made = engine.vms.create(call, "debian:12", **lab.GUEST_SIZE)
    engine.vms.start(call, made.vm_id)
    pid = engine.fleet.list_processes()[0].pid
    machine = engine.fleet.live(made.vm_id)
    machine.channel.call("exec", {"argv": ["sh", "-c", "echo kept > /root/note"], "stdin": False}, 60)
    engine.close()

    engine = next_node(tmp_path)
    call = lab.CallRecorder(engine).call
    assert engine.fleet.list_processes()[0].pid == pid
    assert engine.vms.stop(made.vm_id).state == "stopped"
    assert list(lab.processes_of(tmp_path)) == []
    engine.close()

    engine = next_node(tmp_path)
    call = lab.CallRecorder(engine).call
    engine.vms.start(call, made.vm_id)
    done = engine.vms.exec(call, made.vm_id, command="cat /root/note", timeout_seconds=60, stdin=None)
    assert (done.stdout, done.isolation) == ("kept\n", "emulated")
    assert list(lab.processes_of(tmp_path)) == []
    engine.close()
