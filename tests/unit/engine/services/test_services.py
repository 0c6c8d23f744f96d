"""Services of a workspace: starting, looking, stopping, and outliving callers, nodes and machines."""

from __future__ import annotations

import gc
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fleetlab import CallRecorder, engine_at
from servicelab import REF, a_workspace, start, stop, until

from pyro_mcp.engine.engine import Engine
from pyro_mcp.engine.secrets.redact import Masks
from pyro_mcp.engine.services import record as service_record
from pyro_mcp.engine.services import watcher as service_watch
from pyro_mcp.engine.services.ports import wanted_ports
from pyro_mcp.errors import Cancelled, Conflict, DiskFull, InvalidArgument, MachineFailed, NotFound
from pyro_mcp.model.service import ServiceLogs
from pyro_mcp.node.adopt import reconcile
from pyro_mcp.store.services import ServiceRow
from pyro_mcp.store.services import ServiceTable as Table


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = a_workspace(tmp_path / "state", secrets={"TOKEN": "hunter2hunter2"})
    yield engine
    engine.lifecycle.delete(REF)
    engine.close()


def logs(engine: Engine, name: str = "web", lines: int = 200, *, everything: bool = False) -> ServiceLogs:
    return engine.services.logs(CallRecorder(engine).call, REF, name, tail_lines=lines, everything=everything)


def alive(pid: int | None) -> bool:
    assert pid is not None
    return Path(f"/proc/{pid}").exists()


def test_from_start_to_stop(engine: Engine) -> None:
    begun = start(engine, "echo out; echo err >&2; touch up; exec sleep 300", readiness={"file": "up"})
    assert (begun.state, begun.service_name, begun.exit_code, begun.stop_reason) == ("ready", "web", None, None)
    assert (begun.stdout, begun.stderr, begun.readiness) == ("out\n", "err\n", {"file": "up"})
    assert begun.ready_at is not None
    assert begun.started_at <= begun.ready_at
    assert alive(begun.pid)
    assert engine.services.status(REF, "web").state == "ready"
    (listed,) = engine.services.listing(REF)
    assert listed == engine.services.status(REF, "web")
    shown = engine.lifecycle.status(REF)
    assert (shown.service_count, shown.running_service_count) == (1, 1)
    assert (logs(engine).stdout, logs(engine).truncated) == ("out\n", False)
    ended = stop(engine)
    assert (ended.state, ended.stop_reason, ended.signal, ended.pid) == ("stopped", "it was stopped", "SIGTERM", None)
    assert ended.ended_at is not None
    assert not alive(begun.pid)
    assert stop(engine) == ended
    shown = engine.lifecycle.status(REF)
    assert (shown.service_count, shown.running_service_count) == (1, 0)
    assert logs(engine).stdout == "out\n"


def test_a_relative_directory_is_below_the_workspace(engine: Engine) -> None:
    start(engine, "mkdir -p a/b; touch made; exec sleep 300", readiness={"file": "made"})
    begun = start(engine, "pwd; exec sleep 300", name="inside", cwd="a/b", readiness={"command": "true"})
    assert (begun.state, begun.cwd) == ("ready", "/workspace/a/b")
    assert begun.stdout.endswith("/a/b\n")
    with pytest.raises(InvalidArgument, match="NUL"):
        start(engine, "true", name="bad", cwd="a\0b")
    with pytest.raises(InvalidArgument, match=r"cannot start bad: working directory .*/nowhere: No such file"):
        start(engine, "true", name="bad", cwd="nowhere")
    assert [one.service_name for one in engine.services.listing(REF).services] == ["web", "inside"]


def test_a_service_keeps_its_variables_and_its_shell_when_it_starts_again(engine: Engine) -> None:
    line = 'echo "$MODE ${BASH_VERSION:+bash}"; [ -e once ] && exec sleep 300; touch once; sleep 0.5; exit 1'
    given = {"env": {"MODE": "test"}, "restart": "on-failure"}
    begun = start(engine, line, readiness={"command": "[[ $MODE == test ]] && : <(:)"}, **given)
    assert begun.state == "ready"
    until(lambda: engine.services.status(REF, "web").restart_count == 1)
    until(lambda: logs(engine).stdout == "test bash\ntest bash\n")
    with pytest.raises(InvalidArgument, match="a name is a letter"):
        start(engine, "true", name="bad", env={"1": "x"})


def test_one_that_cannot_live_says_why_with_the_end_of_its_log(engine: Engine) -> None:
    begun = time.monotonic()
    done = start(engine, "echo no config >&2; exit 3", readiness={"tcp": "1"}, ready_timeout_seconds=600)
    assert time.monotonic() - begun < 30
    assert (done.state, done.exit_code, done.stderr) == ("failed", 3, "no config\n")
    assert done.stop_reason == "it exited with 3 before it was ready"
    missing = start(engine, ["no-such-program"])
    assert (missing.state, missing.exit_code) == ("failed", 127)
    assert missing.stderr == "pyro: no-such-program: command not found\n"
    late = start(engine, "echo slow; sleep 300", readiness={"file": "never"}, ready_timeout_seconds=1)
    assert (late.state, late.stdout) == ("failed", "slow\n")
    assert late.stop_reason is not None
    assert late.stop_reason.startswith("it was not ready after 1 s")
    assert (engine.services.listing(REF).count, len(engine.services.ended(engine.registry.find(REF)))) == (1, 3)


def test_its_end_is_known_without_asking(engine: Engine) -> None:
    begun = start(engine, "echo last words; exec sleep 300")
    assert begun.pid is not None
    os.kill(begun.pid, signal.SIGKILL)
    until(lambda: engine.services.status(REF, "web").state == "failed")
    done = engine.services.status(REF, "web")
    assert (done.stop_reason, done.exit_code, done.signal) == ("SIGKILL ended it", 137, "SIGKILL")


def test_an_end_that_found_the_disk_full_is_recorded_once_there_is_room(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_watch, "AGAIN_SECONDS", 0.01)
    begun = start(engine, "echo last words; exec sleep 300")
    assert begun.pid is not None
    update, full = Table.update, threading.Event()

    def cramped(table: Table, row: ServiceRow, **given: Any) -> bool:
        if row.alive or full.is_set():
            return update(table, row, **given)
        full.set()
        raise DiskFull("cannot record: no space left")

    monkeypatch.setattr(Table, "update", cramped)
    os.kill(begun.pid, signal.SIGKILL)
    until(lambda: engine.services.status(REF, "web").state == "failed")
    assert full.is_set()
    assert logs(engine).stdout == "last words\n"


def test_a_name_in_use_is_refused_and_one_that_ended_is_replaced(engine: Engine) -> None:
    start(engine, "sleep 300")
    with pytest.raises(Conflict, match="is running already") as caught:
        start(engine, "sleep 300")
    assert "<<stop_service>>" in (caught.value.hint or "")
    stop(engine)
    assert start(engine, "sleep 301").state == "running"
    assert engine.services.listing(REF).count == 1


def test_what_is_not_there(engine: Engine) -> None:
    for ask in (lambda: engine.services.status(REF, "none"), lambda: stop(engine, "none"), lambda: logs(engine, "no")):
        with pytest.raises(NotFound, match="cannot find the service"):
            ask()
    with pytest.raises(InvalidArgument, match="exactly one of"):
        start(engine, "true", readiness={"smoke": "x"})
    with pytest.raises(InvalidArgument, match="dials the machine itself"):
        start(engine, "true", readiness={"http": "http://203.0.113.1/"})
    with pytest.raises(NotFound, match="secret"):
        start(engine, "true", secret_env={"NONE": "NONE"})
    assert engine.services.listing(REF).count == 0


def test_what_the_machine_refuses_leaves_nothing(engine: Engine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Conflict, match="answers on port"):
            start(engine, "sleep 300", readiness={"tcp": f"127.0.0.1:{port}"})
    assert engine.services.listing(REF).count == 0


def test_secrets_reach_it_and_come_out_masked(engine: Engine) -> None:
    command = "echo got $TOKEN; echo $TOKEN >&2; exit 3"
    done = start(engine, command, secret_env=["TOKEN"], readiness={"command": "test hunter2hunter2 = x"})
    assert (done.stdout, done.stderr) == ("got [secret]\n", "[secret]\n")
    assert done.readiness == {"command": "test [secret] = x"}
    assert logs(engine).stdout == "got [secret]\n"
    shown = start(engine, ["sh", "-c", "exit 1", "hunter2hunter2"])
    assert "hunter2" not in shown.command
    assert b"hunter2" not in b"".join(path.read_bytes() for path in engine.settings.state_dir.glob("pyro.db*"))


def test_a_caller_that_goes_away_while_it_starts_ends_it(engine: Engine) -> None:
    recorder = CallRecorder(engine)
    pid_file = engine.lifecycle.status(REF).metadata["host_directory"] + "/pid"

    def leave() -> None:
        until(lambda: os.path.exists(pid_file) and Path(pid_file).read_text().strip())
        recorder.call.cancel()

    thread = threading.Thread(target=leave)
    thread.start()
    with pytest.raises(Cancelled):
        start(engine, "echo $$ > pid; exec sleep 300", readiness={"file": "never"}, call=recorder.call)
    thread.join()
    done = engine.services.status(REF, "web")
    assert (done.state, done.stop_reason) == ("stopped", "its start was cancelled")
    assert not alive(int(Path(pid_file).read_text()))


def test_a_caller_that_goes_away_as_it_is_ready_ends_it(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = CallRecorder(engine)
    monkeypatch.setattr(
        engine.services, "_faults", lambda step: recorder.call.cancel() if step == "service started" else None
    )
    with pytest.raises(Cancelled):
        start(engine, "echo $$ > p; mv p pid; exec sleep 300", readiness={"file": "pid"}, call=recorder.call)
    assert engine.services.status(REF, "web").state == "stopped"
    assert not alive(int(Path(engine.lifecycle.status(REF).metadata["host_directory"], "pid").read_text()))


def test_a_stop_that_overtakes_the_start_holds(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.services, "_faults", lambda step: stop(engine) if step == "service ports open" else None)
    done = start(engine, "exec sleep 300")
    assert (done.state, done.stop_reason) == ("stopped", "it was stopped")
    monkeypatch.undo()

    def the_name_is_free() -> bool:
        try:
            return start(engine, "exec sleep 300").state == "running"
        except Conflict:
            return False

    until(the_name_is_free)


def test_stopping_the_workspace_stops_it_and_keeps_the_end_of_its_log(engine: Engine) -> None:
    start(engine, "seq 1 300; exec sleep 300")
    start(engine, "exit 0", name="once")
    engine.lifecycle.stop(REF)
    done = engine.services.status(REF, "web")
    assert (done.state, done.stop_reason) == ("stopped", "the workspace was stopped")
    assert logs(engine, lines=2).stdout == "299\n300\n"
    assert logs(engine, lines=2).truncated
    engine.lifecycle.start(CallRecorder(engine).call, REF)
    assert engine.services.status(REF, "web") == done
    assert engine.services.status(REF, "once").state == "exited"
    assert start(engine, "sleep 300").state == "running"


def test_the_death_of_its_machine_is_its_end(engine: Engine) -> None:
    start(engine, "echo hello; exec sleep 300")
    machine = engine.fleet.live(engine.registry.find(REF).machine_id)
    os.kill(machine.pid, signal.SIGKILL)
    until(lambda: engine.services.status(REF, "web").state == "stopped")
    assert engine.services.status(REF, "web").stop_reason == "its machine ended unexpectedly"
    assert logs(engine).stdout == "hello\n"
    assert start(engine, "sleep 300").state == "running"


def test_a_reset_clears_them(engine: Engine) -> None:
    start(engine, "exec sleep 300")
    pid = engine.services.status(REF, "web").pid
    engine.snapshots.reset(CallRecorder(engine).call, REF, "baseline")
    assert engine.services.listing(REF).count == 0
    until(lambda: not alive(pid))


def test_the_summary_tells_of_them(engine: Engine) -> None:
    start(engine, "exit 3", name="bad")
    start(engine, "exit 0", name="good")
    start(engine, "exec sleep 300")
    told = engine.summaries.summarize(CallRecorder(engine).call, REF).services
    assert [one.service_name for one in told.now] == ["web"]
    assert [(one.service_name, one.state) for one in told.before] == [("bad", "failed"), ("good", "exited")]
    assert (told.before_count, told.failed) == (2, 1)


# -- nodes come and go


def test_it_outlives_its_node(tmp_path: Path) -> None:
    first = a_workspace(tmp_path / "state")
    kept = start(first, "echo hello; exec sleep 300")
    gone = start(first, "exec sleep 300", name="gone")
    first.close()
    assert alive(kept.pid)
    assert gone.pid is not None
    os.kill(gone.pid, signal.SIGKILL)
    second = engine_at(tmp_path / "state")
    try:
        reconcile(second)
        found = second.services.status(REF, "web")
        assert (found.state, found.pid, found.started_at) == ("running", kept.pid, kept.started_at)
        # Its agent may still be about to see it.
        until(lambda: second.services.status(REF, "gone").state != "running")
        lost = second.services.status(REF, "gone")
        assert (lost.state, lost.stop_reason) == ("failed", "SIGKILL ended it")
        assert logs(second).stdout == "hello\n"
        os.kill(found.pid or 0, signal.SIGKILL)
        until(lambda: second.services.status(REF, "web").state == "failed")
    finally:
        second.lifecycle.delete(REF)
        second.close()


def test_one_whose_machine_ended_with_the_node_is_stopped(tmp_path: Path) -> None:
    first = a_workspace(tmp_path / "state")
    start(first, "exec sleep 300")
    machine = first.fleet.live(first.registry.find(REF).machine_id)
    first.close()
    os.kill(machine.pid, signal.SIGKILL)
    second = engine_at(tmp_path / "state")
    try:
        reconcile(second)
        done = second.services.status(REF, "web")
        assert (done.state, done.stop_reason) == ("stopped", "its machine ended while no node watched it")
    finally:
        second.lifecycle.delete(REF)
        second.close()


# -- ports


@pytest.mark.parametrize(
    ("requested", "words"),
    [
        (["0"], "from 1 to 65535"),
        (["65536"], "from 1 to 65535"),
        (["-1"], "not a port"),
        ([70000], "from 1 to 65535"),
        (["0:80"], "from 1 to 65535"),
        (["80:80:80"], "not a port"),
        (["http"], "not a port"),
        (["0.0.0.0:80:80"], "not a port"),
        (["8080:80", "8081:80"], "twice"),
        (["8080:80", "8080:81"], "twice"),
        ([str(number) for number in range(1, 18)], "at most 16"),
    ],
)
def test_ports_that_are_none(requested: list[int | str], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        wanted_ports(requested)


def test_publishing_needs_the_policy(engine: Engine) -> None:
    with pytest.raises(Conflict, match=r"network policy of .* is off") as caught:
        start(engine, "sleep 300", published_ports=[8000])
    assert "egress+published-ports" in (caught.value.hint or "")


# -- what a hostile agent says


GOOD: dict[str, Any] = {
    "version": 3,
    "run": "r",
    "state": "ready",
    "exit_code": None,
    "signal": None,
    "pid": 7,
    "reason": None,
    "restart_count": 0,
    "ready_ago_ms": 10,
    "ended_ago_ms": None,
}


@pytest.mark.parametrize(
    "lie",
    [
        {"state": "excellent"},
        {"exit_code": 256},
        {"exit_code": True},
        {"exit_code": -1},
        {"signal": "sig\x1b[2J"},
        {"pid": 1 << 60},
        {"reason": 7},
        {"restart_count": None},
        {"ready_ago_ms": -1},
        {"ready_ago_ms": 0.5},
    ],
)
def test_an_agent_that_breaks_the_rules_is_not_believed(engine: Engine, lie: dict[str, Any]) -> None:
    start(engine, "true")
    row = engine.services._table.latest(engine.registry.find(REF).workspace_id, 0)[0]
    assert service_record.applied(row, {"service": GOOD}, 5e9, Masks()).state == "ready"
    with pytest.raises(MachineFailed, match="broke the protocol"):
        service_record.applied(row, {"service": {**GOOD, **lie}}, 5e9, Masks())


def test_an_agents_words_are_bounded_and_printable(engine: Engine) -> None:
    start(engine, "true")
    row = engine.services._table.latest(engine.registry.find(REF).workspace_id, 0)[0]
    loud = service_record.applied(row, {"service": {**GOOD, "reason": "\x1b]52;" * 9999}}, 5e9, Masks())
    assert loud.stop_reason is not None
    assert len(loud.stop_reason) <= 500
    assert loud.stop_reason.isprintable()
    early = service_record.applied(row, {"service": {**GOOD, "ready_ago_ms": 1 << 50}}, 5e9, Masks())
    assert early.ready_at == row.started_at
    ready = replace(row, ready_at=row.started_at + 5)
    again = {"service": {**GOOD, "ready_ago_ms": 0}}
    assert service_record.applied(ready, again, row.started_at + 9, Masks()).ready_at == ready.ready_at
    again["service"]["restart_count"] = 1
    assert service_record.applied(ready, again, row.started_at + 9, Masks()).ready_at == row.started_at + 9


def test_what_watched_a_machine_goes_with_it(engine: Engine) -> None:
    """A node lives for months, and every reset gives a workspace another machine."""
    start(engine, "exec sleep 300")
    assert len(engine.services._watches) == 1
    engine.snapshots.reset(CallRecorder(engine).call, REF, "baseline")

    def gone() -> bool:
        gc.collect()
        return len(engine.services._watches) == 0

    until(gone)


@pytest.mark.parametrize("state", [[], {}, None, 1, "dancing"])
def test_a_state_that_is_none_breaks_the_protocol_and_nothing_else(engine: Engine, state: Any) -> None:
    start(engine, "exec sleep 300")
    (row,) = engine.services._table.alive()
    with pytest.raises(MachineFailed, match="broke the protocol"):
        service_record.applied(row, {"service": {"run": row.run, "state": state, "restart_count": 0}}, 0.0, Masks())
