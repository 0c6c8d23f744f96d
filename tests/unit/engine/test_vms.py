"""The vm verbs over machines that need no virtualisation: lives, failures, cancellation, admission, time."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fleetlab import SIZE, CallRecorder, engine_at, processes_of

from pyro_mcp.engine.engine import Engine
from pyro_mcp.errors import (
    Cancelled,
    Capacity,
    Conflict,
    InvalidArgument,
    IsolationUnavailable,
    MachineFailed,
    NotFound,
    PyroError,
    TimedOut,
    Unsupported,
)
from pyro_mcp.machines.host.driver import HostDriver
from pyro_mcp.model.process import RunResult
from pyro_mcp.node.reap import Reaper


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = engine_at(tmp_path / "state")
    yield engine
    engine.stop_all()
    nothing_left(engine)
    engine.close()


def nothing_left(engine: Engine) -> None:
    """No process works below the state directory, and no directory is there without a row."""
    running = {row.machine_id for row in engine.fleet.rows() if row.state == "running"}
    if not running:
        assert list(processes_of(engine.settings.state_dir)) == []
    home = engine.settings.state_dir / "machines"
    assert {path.name for path in home.glob("*")} == {row.machine_id for row in engine.fleet.rows()}


def run(
    recorder: CallRecorder, command: str | list[str], *, timeout_seconds: int = 20, stdin: Any = None, **changes: Any
) -> RunResult:
    return recorder.call.engine.vms.run(
        recorder.call, "debian:12", command=command, timeout_seconds=timeout_seconds, stdin=stdin, **{**SIZE, **changes}
    )


def test_a_run_leaves_nothing(engine: Engine) -> None:
    recorder = CallRecorder(engine)
    result = run(recorder, ["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (result.stdout, result.stderr, result.exit_code) == ("out\n", "err\n", 3)
    assert (result.execution_mode, result.isolation) == ("host_compat", "none")
    assert result.command == "sh -c 'echo out; echo err >&2; exit 3'"
    assert result.cleanup.deleted
    assert recorder.output == {1: b"out\n", 2: b"err\n"}
    assert "WITHOUT isolation" in recorder.notices[0]
    assert engine.fleet.rows() == []
    nothing_left(engine)


def test_a_line_goes_to_the_shell(engine: Engine) -> None:
    result = run(CallRecorder(engine), "echo $((6*7)) | tr 2 x")
    assert (result.stdout, result.command) == ("4x\n", "echo $((6*7)) | tr 2 x")


def test_input_reaches_the_command(engine: Engine) -> None:
    assert run(CallRecorder(engine), ["wc", "-c"], stdin=[b"x" * 300_000] * 10).stdout == "3000000\n"
    assert run(CallRecorder(engine), ["cat"], stdin=b"all at once").stdout == "all at once"


def test_a_timeout_kills_and_is_a_result(engine: Engine) -> None:
    result = run(CallRecorder(engine), "echo before; sleep 60 & sleep 60", timeout_seconds=1)
    assert (result.exit_code, result.timed_out, result.stdout) == (124, True, "before\n")
    nothing_left(engine)


def test_a_flood_is_captured_in_bounds(engine: Engine) -> None:
    result = run(CallRecorder(engine), "head -c 30000000 /dev/zero | tr '\\0' x; echo end")
    assert result.truncated
    assert len(result.stdout) < 1_100_000
    assert result.stdout.endswith("end\n")
    assert result.stdout_dropped_bytes == 30_000_004 - 1024 * 1024


def test_cancel_ends_the_command_and_the_machine(engine: Engine) -> None:
    recorder = CallRecorder(engine)
    threading.Thread(target=lambda: (recorder.wrote.wait(), recorder.call.cancel())).start()
    with pytest.raises(Cancelled):
        run(recorder, "echo here; sleep 300")
    assert engine.fleet.rows() == []
    nothing_left(engine)


def test_a_machine_that_dies_is_told_and_removed(engine: Engine) -> None:
    recorder = CallRecorder(engine)

    def kill() -> None:
        recorder.wrote.wait()
        (seen,) = engine.fleet.list_processes()
        assert seen.pid
        os.kill(seen.pid, signal.SIGKILL)

    threading.Thread(target=kill).start()
    with pytest.raises(MachineFailed, match="is gone"):
        run(recorder, "echo here; sleep 300")
    assert engine.fleet.rows() == []
    nothing_left(engine)


def test_a_machine_deleted_during_its_command_is_told(engine: Engine) -> None:
    recorder = CallRecorder(engine)
    threading.Thread(
        target=lambda: (recorder.wrote.wait(), engine.fleet.remove(engine.fleet.rows()[0].machine_id, "a test"))
    ).start()
    with pytest.raises(TimedOut, match="a test"):
        run(recorder, "echo here; sleep 300")


def test_a_whole_life(engine: Engine) -> None:
    call = CallRecorder(engine).call
    vms = engine.vms
    made = vms.create(call, "debian:12", **SIZE)
    assert (made.state, made.isolation, made.ttl_seconds) == ("created", None, 600)
    with pytest.raises(Conflict, match="it is created"):
        vms.exec(call, made.vm_id, command="true", timeout_seconds=5, stdin=None)
    assert vms.start(call, made.vm_id).state == "started"
    assert vms.start(call, made.vm_id).state == "started"
    assert vms.stop(made.vm_id).state == "stopped"
    assert vms.stop(made.vm_id).state == "stopped"
    assert vms.start(call, made.vm_id).state == "started"
    assert vms.network(made.vm_id).network_policy == "off"
    done = vms.exec(call, made.vm_id, command="echo once", timeout_seconds=5, stdin=None)
    assert (done.stdout, done.cleanup.deleted) == ("once\n", True)
    with pytest.raises(NotFound):
        vms.status(made.vm_id)


def test_an_unknown_machine_is_refused_with_the_known_ones(engine: Engine) -> None:
    made = engine.vms.create(CallRecorder(engine).call, "debian:12", **SIZE)
    with pytest.raises(NotFound) as caught:
        engine.vms.delete("vm-000000000000")
    assert made.vm_id in str(caught.value)
    assert engine.vms.delete(made.vm_id).deleted


def test_what_cannot_be_is_refused_before_anything_is_made(engine: Engine) -> None:
    for error, changes in [
        (Unsupported, {"network": True, "allow_hosts": ["a.test"]}),
        (InvalidArgument, {"network": True, "allow_addresses": ["10.0.0.1/8"]}),
        (InvalidArgument, {"allow_hosts": []}),
        (InvalidArgument, {"host_ca": True}),
        (InvalidArgument, {"vcpu_count": 10_000}),
        (Capacity, {"mem_mib": 1_000_000}),
        (IsolationUnavailable, {"allow_host_compat": False}),
    ]:
        with pytest.raises(error):
            run(CallRecorder(engine), "true", **changes)
    assert not (engine.settings.state_dir / "machines").exists()


def test_admission_counts_machines_and_memory(tmp_path: Path) -> None:
    engine = engine_at(tmp_path / "state", max_machines=3, memory_limit_mib=400)
    call = CallRecorder(engine).call
    made = [engine.vms.create(call, "debian:12", **SIZE) for _ in range(3)]
    with pytest.raises(Capacity, match="3 of at most 3"):
        engine.vms.create(call, "debian:12", **SIZE)
    engine.vms.delete(made[0].vm_id)
    with pytest.raises(Capacity, match="500 MiB: 0 of 400 MiB"):
        engine.vms.create(call, "debian:12", **{**SIZE, "mem_mib": 500})
    big = engine.vms.create(call, "debian:12", **{**SIZE, "mem_mib": 300})
    engine.vms.start(call, made[1].vm_id)
    with pytest.raises(Capacity, match="300 MiB: 128 of 400 MiB"):
        engine.vms.start(call, big.vm_id)
    engine.vms.stop(made[1].vm_id)
    engine.vms.start(call, big.vm_id)
    engine.stop_all()
    engine.close()


def test_admission_counts_what_a_machine_takes_besides_its_memory(tmp_path: Path) -> None:
    class Emulated(HostDriver):
        capabilities = dataclasses.replace(HostDriver.capabilities, overhead_mib=100)

    engine = engine_at(tmp_path / "state", driver=Emulated(), memory_limit_mib=500)
    call = CallRecorder(engine).call
    with pytest.raises(Capacity, match="450 MiB, which takes 100 MiB besides: 0 of 500 MiB are taken") as caught:
        engine.vms.create(call, "debian:12", **{**SIZE, "mem_mib": 450})
    assert "at most 400 MiB" in str(caught.value.hint)
    one = engine.vms.create(call, "debian:12", **SIZE)
    two = engine.vms.create(call, "debian:12", **{**SIZE, "mem_mib": 200})
    engine.vms.start(call, one.vm_id)
    assert engine.fleet.committed_mib() == SIZE["mem_mib"] + 100
    with pytest.raises(Capacity, match="200 MiB, which takes 100 MiB besides: 228 of 500 MiB"):
        engine.vms.start(call, two.vm_id)
    engine.stop_all()
    engine.close()


def test_many_at_once_are_admitted_exactly(tmp_path: Path) -> None:
    """Those that are in wait until all others were refused."""
    engine = engine_at(tmp_path / "state", max_machines=4)
    go, refused = tmp_path / "go", []

    def one(number: int) -> str:
        try:
            return run(CallRecorder(engine), f"until [ -e {go} ]; do sleep 0.05; done; echo {number}").stdout
        except Capacity:
            refused.append(number)
            if len(refused) == 8:
                go.touch()
            return "refused"

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(one, range(12)))
    assert answers.count("refused") == 8
    assert all(answer in ("refused", f"{number}\n") for number, answer in enumerate(answers))
    assert engine.fleet.rows() == []
    nothing_left(engine)
    engine.close()


def test_a_boot_that_fails_leaves_nothing(tmp_path: Path) -> None:
    class Broken(HostDriver):
        def launch(self, spec: Any, progress: Any) -> Any:
            raise MachineFailed("cannot boot: it is broken")

    engine = engine_at(tmp_path / "state", driver=Broken())
    with pytest.raises(MachineFailed, match="it is broken"):
        run(CallRecorder(engine), "true")
    assert engine.fleet.rows() == []
    call = CallRecorder(engine).call
    made = engine.vms.create(call, "debian:12", **SIZE)
    with pytest.raises(MachineFailed):
        engine.vms.start(call, made.vm_id)
    status = engine.vms.status(made.vm_id)
    assert (status.state, status.metadata["reason"]) == ("failed", "cannot boot: it is broken")
    engine.vms.delete(made.vm_id)
    nothing_left(engine)
    engine.close()


def test_a_death_between_commands_is_noticed(engine: Engine) -> None:
    call = CallRecorder(engine).call
    made = engine.vms.create(call, "debian:12", **SIZE)
    engine.vms.start(call, made.vm_id)
    failed = threading.Event()
    engine.on_change(lambda: failed.set() if engine.vms.status(made.vm_id).state == "failed" else None)
    pid = engine.fleet.list_processes()[0].pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    assert failed.wait(10)
    assert engine.vms.start(call, made.vm_id).state == "started"


# -- time


def test_an_expired_machine_is_reaped_by_itself(engine: Engine) -> None:
    reaper = Reaper(engine)
    reaper.start()
    call = CallRecorder(engine).call
    begun = time.monotonic()
    made = engine.vms.create(call, "debian:12", **{**SIZE, "ttl_seconds": 2})
    gone = threading.Event()
    engine.on_change(lambda: gone.set() if not engine.fleet.rows() else None)
    engine.vms.start(call, made.vm_id)
    assert gone.wait(60)
    assert time.monotonic() - begun >= 2
    reaper.stop()
    nothing_left(engine)


def test_expiry_ends_a_run_and_says_so(engine: Engine) -> None:
    reaper = Reaper(engine)
    reaper.start()
    with pytest.raises(TimedOut, match="1 s to live"):
        run(CallRecorder(engine), "sleep 60", timeout_seconds=60, ttl_seconds=1)
    reaper.stop()
    assert engine.fleet.rows() == []


def test_setting_the_wall_clock_ends_nothing(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    made = engine.vms.create(CallRecorder(engine).call, "debian:12", **SIZE)
    for day in (86400.0, -86400.0):
        monkeypatch.setattr(engine.clock, "wall", lambda day=day: time.time() + day)
        assert engine.vms.reap().count == 0
        remaining = engine.fleet.next_expiry()
        assert remaining is not None
        assert 590 < remaining <= 600
    start = engine.clock.boot_ns()
    monkeypatch.setattr(engine.clock, "boot_ns", lambda: start + 601 * 10**9)
    assert engine.vms.reap().vm_ids == [made.vm_id]


def test_after_a_reboot_the_wall_clock_decides(engine: Engine) -> None:
    engine.vms.create(CallRecorder(engine).call, "debian:12", **SIZE)
    engine.clock.boot_id = "another boot"
    remaining = engine.fleet.next_expiry()
    assert remaining is not None
    assert 590 < remaining <= 600


def test_one_that_cannot_be_removed_spares_no_other(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    call = CallRecorder(engine).call
    made = [engine.vms.create(call, "debian:12", **{**SIZE, "ttl_seconds": 1}) for _ in range(3)]
    start = engine.clock.boot_ns()
    monkeypatch.setattr(engine.clock, "boot_ns", lambda: start + 10 * 10**9)
    erase = engine.fleet.erase

    def stubborn(machine_id: str) -> None:
        if machine_id == made[1].vm_id:
            raise PyroError("cannot remove it: it sticks")
        erase(machine_id)

    monkeypatch.setattr(engine.fleet, "erase", stubborn)
    assert engine.vms.reap().vm_ids == [made[0].vm_id, made[2].vm_id]
    monkeypatch.setattr(engine.fleet, "erase", erase)
    assert engine.vms.reap().vm_ids == [made[1].vm_id]
