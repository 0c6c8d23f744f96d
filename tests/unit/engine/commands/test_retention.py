"""How much of a history is kept: rows and output go oldest first, are told as gone, and what runs stays."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fleetlab import CallRecorder, engine_at

from pyro_mcp.api import workspace
from pyro_mcp.engine.commands import journal, retention, ring
from pyro_mcp.engine.engine import Engine
from pyro_mcp.errors import DiskFull, NotFound
from pyro_mcp.model.workspace_exec import CommandOutput, WorkspaceLogs
from pyro_mcp.node.adopt import reconcile
from pyro_mcp.store.commands import CommandTable

REF = "w"
START = "0:0"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = an_engine(tmp_path / "state")
    yield engine
    engine.lifecycle.delete(REF)
    engine.close()


def an_engine(state_dir: Path, **options: Any) -> Engine:
    engine = engine_at(state_dir, **options)
    workspace.create_workspace.function(
        CallRecorder(engine).call, environment="debian:12", name=REF, mem_mib=128, allow_host_compat=True
    )
    return engine


def run(engine: Engine, command: str, wait: int | None = None) -> CommandOutput:
    return engine.commands.exec(
        CallRecorder(engine).call, REF, command=command, wait_seconds=wait, timeout_seconds=60, stdin=None
    )


def logs(engine: Engine, sequence: int | None = None, cursor: str | None = None, *, end: bool = False) -> WorkspaceLogs:
    call = CallRecorder(engine).call
    return engine.commands.logs(call, REF, sequence=sequence, cursor=cursor, wait_seconds=None, end=end, limit=100)


def files(state_dir: Path) -> list[str]:
    return sorted(path.name for path in state_dir.glob("workspaces/*/journal/*/*"))


def say(count: int) -> str:
    return f"head -c {count} /dev/zero | tr '\\0' x"


def test_the_oldest_output_goes_and_is_told(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "OUTPUT_BYTES", 2500)
    run(engine, f"{say(1000)}; echo errs >&2; exit 3")
    run(engine, say(1000))
    assert logs(engine, 1).entries[0].stdout == "x" * 1000
    run(engine, say(1000))
    assert files(engine.settings.state_dir) == ["2.out", "3.out"]
    first, second, third = logs(engine).entries
    assert (first.state, first.exit_code, first.truncated) == ("finished", 3, True)
    assert (first.stdout_dropped_bytes, first.stderr_dropped_bytes) == (1000, 5)
    assert "1000 bytes dropped" in first.stdout
    assert "5 bytes dropped" in first.stderr
    assert [(entry.stdout, entry.truncated) for entry in (second, third)] == [("x" * 1000, False)] * 2
    page = logs(engine, 1, START).entries[0]
    assert "1000 bytes dropped" in page.stdout
    after = logs(engine, 1, page.next_cursor).entries[0]
    assert (after.stdout, after.stderr, after.next_cursor) == ("", "", page.next_cursor)
    ((_, out, _),) = engine.commands.failures(engine.registry.find(REF), 5)
    assert "1000 bytes dropped" in out


def test_what_was_dropped_before_is_counted_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "HEAD_BYTES", 1000)
    monkeypatch.setattr(ring, "TAIL_BYTES", 1000)
    monkeypatch.setattr(retention, "OUTPUT_BYTES", 2500)
    assert run(engine, say(300_000)).stdout_dropped_bytes == 298_000
    run(engine, say(1000))
    assert logs(engine, 1).entries[0].stdout_dropped_bytes == 300_000


def test_what_runs_stays_whatever_it_says(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "OUTPUT_BYTES", 1500)
    monkeypatch.setattr(retention, "ROWS", 2)
    monkeypatch.setattr(retention, "ROUND", 1)
    left = run(engine, f"{say(2000)}; echo; while [ ! -e go ]; do sleep 0.05; done", wait=0)
    deadline = time.monotonic() + 60
    while len(logs(engine, left.sequence).entries[0].stdout) < 2001:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for _ in range(4):
        run(engine, say(1000))
    entries = logs(engine).entries
    assert [entry.sequence for entry in entries] == [1, 4, 5]
    assert (entries[0].state, len(entries[0].stdout)) == ("running", 2001)
    assert len(logs(engine, left.sequence).entries[0].stdout) == 2001
    run(engine, "touch go")
    while engine.lifecycle.status(REF).running_command_count:
        engine.commands.join()
    # Over, it is the oldest, with its output and then with its row.
    run(engine, "true")
    with pytest.raises(NotFound, match="so old"):
        logs(engine, 1)
    deadline = time.monotonic() + 60
    while files(engine.settings.state_dir):
        assert time.monotonic() < deadline


def test_old_rows_go_and_the_counts_stay_true(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "ROWS", 5)
    monkeypatch.setattr(retention, "ROUND", 4)
    for number in range(1, 9):
        assert run(engine, f"echo {number}; exit {number % 2}").sequence == number
    shown = logs(engine)
    assert [entry.sequence for entry in shown.entries] == [4, 5, 6, 7, 8]
    assert (shown.count, shown.command_count) == (5, 8)
    assert files(engine.settings.state_dir) == [f"{number}.out" for number in (4, 5, 6, 7, 8)]
    assert engine.lifecycle.status(REF).command_count == 8
    tally = engine.commands.tally(engine.registry.find(REF))
    assert (tally.succeeded, tally.failed, tally.ended, tally.running) == (4, 4, 0, 0)
    with pytest.raises(NotFound, match="so old") as caught:
        logs(engine, 3)
    assert "commands 4 to 8" in str(caught.value.hint)
    for _ in range(4):
        run(engine, "true")
    tally = engine.commands.tally(engine.registry.find(REF))
    assert (tally.succeeded, tally.failed, logs(engine).command_count) == (8, 4, 12)
    engine.snapshots.reset(CallRecorder(engine).call, REF, "baseline")
    assert (logs(engine).command_count, run(engine, "false").sequence) == (0, 1)
    tally = engine.commands.tally(engine.registry.find(REF))
    assert (tally.succeeded, tally.failed) == (0, 1)


def test_a_store_that_refuses_is_asked_again(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(retention, "OUTPUT_BYTES", 1500)
    run(engine, say(1000))
    with monkeypatch.context() as broken:

        def full(*_: Any) -> list[int]:
            raise DiskFull("cannot write the store: the disk is full")

        broken.setattr(CommandTable, "forget_output", full)
        assert run(engine, say(1000)).stdout == "x" * 1000
    assert "cannot trim the history" in caplog.text
    run(engine, "true")
    assert files(engine.settings.state_dir) == ["2.out"]


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def test_a_node_that_dies_in_between_leaves_files_that_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "OUTPUT_BYTES", 1500)

    def die(step: str) -> None:
        if step == "history trimmed":
            raise Killed

    engine = an_engine(tmp_path / "state", faults=die)
    run(engine, say(1000))
    with pytest.raises(Killed):
        run(engine, say(1000))
    assert files(tmp_path / "state") == ["1.out", "2.out"]
    assert "1000 bytes dropped" in logs(engine, 1).entries[0].stdout
    engine.close()
    again = engine_at(tmp_path / "state")
    reconcile(again)
    assert files(tmp_path / "state") == ["2.out"]
    first, second = logs(again).entries
    assert (first.stdout_dropped_bytes, second.stdout) == (1000, "x" * 1000)
    again.lifecycle.delete(REF)
    again.close()


FLOOD = """
import os, sys
from pathlib import Path
from pyro_mcp.engine.commands import journal, ring
journal.HEAD_BYTES, ring.TAIL_BYTES = 1000, 500
writer = journal.Journal(Path(sys.argv[1]), 1)
for number in range(100):
    writer.add(1, b"%07d\\n" % number * 10)
os.kill(os.getpid(), 9)
"""


def test_the_end_of_what_a_dead_node_attended_is_kept_and_the_rest_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run([sys.executable, "-c", FLOOD, str(tmp_path)], env={**os.environ}, check=False)
    monkeypatch.setattr(journal, "HEAD_BYTES", 1000)
    for _ in range(2):
        # Twice, as when the node that finishes it dies, too.
        writer = journal.Journal(tmp_path, 1, journal.offsets_left(tmp_path, 1))
        assert writer.finish() == {1: 8000 - 1500, 2: 0}
        assert writer.kept == {1: 1500, 2: 0}
    data = (tmp_path / "1.out").read_bytes()
    whole = b"".join(b"%07d\n" % number * 10 for number in range(100))
    assert data == whole[:1000] + b"\n[pyro: 6500 bytes dropped here]\n" + whole[-500:]


def test_a_write_that_was_cut_short_spoils_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ring, "TAIL_BYTES", 100)
    kept = ring.JournalRing(tmp_path / "tail", 0)
    kept.write(bytes(range(100)), 0)
    real = os.pwrite
    with monkeypatch.context() as cut:

        def short(fd: int, data: Any, at: int) -> int:
            real(fd, bytes(data)[:10], at)
            if len(data) == 30:
                raise Killed
            return len(data)

        cut.setattr(ring.os, "pwrite", short)
        with pytest.raises(Killed):
            kept.write(b"\xff" * 30, 100)
    kept.close()
    again = ring.JournalRing(tmp_path / "tail", 0)
    assert (again.end, again.read(again.end)) == (100, bytes(range(30, 100)))
    again.close()
