"""Commands of a workspace: the journal, waiting, following, ending, and callers that vanish."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fleetlab import CallRecorder, engine_at

from pyro_mcp.api import workspace
from pyro_mcp.engine.commands import journal, ring
from pyro_mcp.engine.engine import Engine
from pyro_mcp.errors import Cancelled, InvalidArgument, MachineFailed, NotFound
from pyro_mcp.model.workspace_exec import CommandOutput, WorkspaceExec
from pyro_mcp.node.adopt import reconcile

REF = "w"


def a_workspace(state_dir: Path, **options: Any) -> Engine:
    engine = engine_at(state_dir, **options)
    workspace.create_workspace.function(
        CallRecorder(engine).call, environment="debian:12", name=REF, mem_mib=128, allow_host_compat=True
    )
    return engine


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = a_workspace(tmp_path / "state")
    yield engine
    engine.lifecycle.delete(REF)
    engine.close()


def run(
    engine: Engine,
    command: str | list[str],
    wait: int | None = None,
    recorder: CallRecorder | None = None,
    **given: Any,
) -> WorkspaceExec:
    call = (recorder or CallRecorder(engine)).call
    options = {"timeout_seconds": 20, "stdin": None, **given}
    return engine.commands.exec(call, REF, command=command, wait_seconds=wait, **options)


def follow(
    engine: Engine,
    sequence: int,
    cursor: str | None = None,
    wait: int | None = None,
    recorder: CallRecorder | None = None,
    **given: Any,
) -> CommandOutput:
    call = (recorder or CallRecorder(engine)).call
    options = {"end": False, "limit": 10, **given}
    return engine.commands.logs(call, REF, sequence=sequence, cursor=cursor, wait_seconds=wait, **options).entries[0]


def history(engine: Engine, limit: int = 100) -> list[CommandOutput]:
    nothing: dict[str, Any] = {"sequence": None, "cursor": None, "wait_seconds": None, "end": False}
    return engine.commands.logs(CallRecorder(engine).call, REF, **nothing, limit=limit).entries


def test_a_command_is_recorded_with_all_it_said(engine: Engine) -> None:
    recorder = CallRecorder(engine)
    done = run(engine, "echo out; echo err >&2; exit 3", recorder=recorder)
    assert (done.sequence, done.state, done.exit_code, done.cwd) == (1, "finished", 3, "/workspace")
    assert (done.stdout, done.stderr, recorder.output) == ("out\n", "err\n", {1: b"out\n", 2: b"err\n"})
    assert run(engine, ["sh", "-c", "kill -9 $$"]).signal == "SIGKILL"
    assert run(engine, "sleep 9", timeout_seconds=1).exit_code == 124
    assert run(engine, ["cat"], stdin=b"given").stdout == "given"
    entries = history(engine)
    assert [entry.sequence for entry in entries] == [1, 2, 3, 4]
    assert [entry.exit_code for entry in entries] == [3, 137, 124, 0]
    assert entries[0].stdout == "out\n"
    assert [entry.sequence for entry in history(engine, 2)] == [3, 4]


def test_what_is_not_done_goes_on_and_can_be_followed(engine: Engine) -> None:
    recorder = CallRecorder(engine)
    first = run(engine, "echo one; until [ -e go ]; do sleep 0.05; done; echo two", wait=1, recorder=recorder)
    assert (first.state, first.exit_code, first.stdout) == ("running", None, "one\n")
    assert recorder.output[1] == b"one\n"
    assert engine.lifecycle.status(REF).running_command_count == 1
    run(engine, "touch go")
    more = follow(engine, first.sequence, first.next_cursor, wait=10)
    assert more.stdout == "two\n"
    while more.state == "running":
        more = follow(engine, first.sequence, more.next_cursor, wait=10)
    assert (more.exit_code, follow(engine, 1).stdout) == (0, "one\ntwo\n")
    assert engine.lifecycle.status(REF).running_command_count == 0


SLOW = "for n in $(seq 40); do echo line $n; sleep 0.05; done"


def test_one_call_gathers_what_a_slow_command_says(engine: Engine) -> None:
    left = run(engine, SLOW, wait=0)
    entry = follow(engine, left.sequence, "0:0", wait=60, until="page")
    assert (entry.state, entry.exit_code, entry.more) == ("finished", 0, False)
    assert entry.stdout == "".join(f"line {number}\n" for number in range(1, 41))


def test_the_first_output_is_what_a_person_follows(engine: Engine) -> None:
    left = run(engine, "echo first; until [ -e go ]; do sleep 0.05; done; echo last", wait=0)
    begun = time.monotonic()
    assert follow(engine, left.sequence, "0:0", wait=60).stdout == "first\n"
    assert time.monotonic() - begun < 30
    run(engine, "touch go")
    assert follow(engine, left.sequence, "6:0", wait=60).stdout == "last\n"


def test_a_full_page_is_answered_before_the_end(engine: Engine) -> None:
    left = run(engine, "echo 0123456789; echo 0123456789 >&2; sleep 300", wait=0)
    begun = time.monotonic()
    full = follow(engine, left.sequence, "0:0", wait=60, until="page", max_bytes=20)
    assert time.monotonic() - begun < 30
    assert (full.state, len(full.stdout) + len(full.stderr), full.more) == ("running", 20, True)
    begun = time.monotonic()
    rest = follow(engine, left.sequence, full.next_cursor, wait=1, until="page", max_bytes=20)
    assert time.monotonic() - begun >= 0.9
    assert (rest.state, len(rest.stdout) + len(rest.stderr), rest.more) == ("running", 2, False)
    follow(engine, left.sequence, end=True)


def test_the_end_is_waited_for_however_much_is_said(engine: Engine) -> None:
    left = run(engine, f"head -c 100000 /dev/zero | tr '\\0' x; {SLOW}; exit 3", wait=0)
    since = follow(engine, left.sequence, "100000:0", wait=60, until="done", max_bytes=16)
    assert (since.state, since.exit_code, since.stdout, since.more) == ("finished", 3, "line 1\nline 2\nli", True)
    whole = follow(engine, left.sequence, until="done")
    assert whole.stdout.endswith("line 40\n"), "without a cursor the end is there"
    slow = run(engine, "echo said; sleep 300", wait=0)
    assert follow(engine, slow.sequence, wait=1, until="done").state == "running"
    recorder = CallRecorder(engine)
    begun = time.monotonic()
    threading.Timer(0.5, recorder.call.cancel).start()
    assert follow(engine, slow.sequence, wait=600, recorder=recorder, until="done").stdout == "said\n"
    assert time.monotonic() - begun < 30, "whoever goes away is not waited for"
    follow(engine, slow.sequence, end=True)


def test_a_command_says_where_it_ran_and_with_what(engine: Engine) -> None:
    run(engine, "mkdir -p src/deep")
    given = {"PLAIN": "a b\nc", "PATH": "/usr/bin:/bin"}
    for wait in (None, 10):
        done = run(
            engine, 'printf "%s|" "$PLAIN" "${PWD##*/src}" "${BASH_VERSION:+bash}"', wait, cwd="src/deep", env=given
        )
        assert (done.stdout, done.cwd) == ("a b\nc|/deep|bash|", "/workspace/src/deep")
    assert run(engine, ["pwd"], cwd="/etc").stdout == "/etc\n"
    assert run(engine, ["pwd"], cwd="src/../src/.").cwd == "/workspace/src"
    assert run(engine, "true").cwd == "/workspace"
    assert [entry.cwd for entry in history(engine)][1:4] == ["/workspace/src/deep", "/workspace/src/deep", "/etc"]
    for wait in (None, 10):
        with pytest.raises(InvalidArgument, match=r"working directory .*/nowhere: No such file") as caught:
            run(engine, "true", wait, cwd="nowhere")
        assert caught.value.hint


def test_bytes_that_are_no_text_are_run_and_recorded_as_well_as_they_can_be(engine: Engine) -> None:
    assert run(engine, 'mkdir -p "$(printf "\\377")"; printf "%s" "\udcff" | od -An -tx1').stdout == " ff\n"
    done = run(engine, ["printenv", "A"], cwd="\udcff", env={"A": "\udcff\udcfe"})
    assert (done.exit_code, done.cwd, done.encoding_lossy) == (0, "/workspace/?", True)
    assert history(engine)[0].command.endswith('printf "%s" "?" | od -An -tx1')
    for broken in ({"cwd": "\ud800"}, {"env": {"A": "\ud800"}}):
        with pytest.raises(InvalidArgument, match="is not valid text"):
            run(engine, "true", **broken)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        *(("1A", "a name is a letter or _"), ("A B", "a name is"), ("", "a name is"), ("É", "a name is")),
        *(("A" * 129, "up to 127"), ("A=B", "a name is"), ("A\n", "a name is"), ("PYRO_MACHINE", "pyro sets it")),
    ],
)
def test_a_variable_has_a_name_that_a_shell_takes(engine: Engine, name: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        run(engine, "true", env={name: "x"})
    assert history(engine) == []


def test_one_that_is_done_in_time_answers_as_if_not_waited_for(engine: Engine) -> None:
    recorder = CallRecorder(engine)
    begun = time.monotonic()
    done = run(engine, "echo quick; exit 4", wait=60, recorder=recorder)
    assert time.monotonic() - begun < 50
    assert (done.state, done.exit_code, done.stdout, recorder.output[1]) == ("finished", 4, "quick\n", b"quick\n")


def test_a_caller_that_vanishes_ends_its_command_unless_it_goes_on(engine: Engine) -> None:
    recorder = CallRecorder(engine)
    threading.Thread(target=lambda: (recorder.wrote.wait(), recorder.call.cancel())).start()
    with pytest.raises(Cancelled):
        run(engine, "echo here; sleep 300", recorder=recorder)
    assert history(engine)[0].state == "ended"
    recorder = CallRecorder(engine)
    threading.Thread(target=lambda: (recorder.wrote.wait(), recorder.call.cancel())).start()
    left = run(engine, "echo here; until [ -e go ]; do sleep 0.05; done; echo done", wait=60, recorder=recorder)
    assert left.state == "running"
    run(engine, "touch go")
    while (entry := follow(engine, left.sequence, "0:0")).state == "running":
        time.sleep(0.05)
    assert (entry.stdout, entry.exit_code) == ("here\ndone\n", 0)


def test_a_command_can_be_ended(engine: Engine) -> None:
    sleep = f"sleep 302.{os.getpid()}"
    left = run(engine, f"echo here; {sleep} & {sleep}", wait=0)
    wait_for(lambda: running(engine, sleep) == 2)
    logs = engine.commands.logs(
        CallRecorder(engine).call, REF, sequence=left.sequence, cursor=None, wait_seconds=None, end=True, limit=1
    )
    assert (logs.entries[0].state, logs.entries[0].signal, logs.entries[0].exit_code) == ("ended", "SIGKILL", 137)
    assert running(engine, sleep) == 0


def running(engine: Engine, command: str) -> int:
    """How many processes are exactly `command`."""
    return int(run(engine, ["pgrep", "-c", "-x", "-f", command.replace(".", "[.]")]).stdout)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.05)


def test_several_run_at_once(engine: Engine) -> None:
    """Each waits for all the others."""
    meet = "touch {0}; for other in 0 1 2 3 4 5 6 7; do until [ -e $other ]; do sleep 0.05; done; done; echo {0}"
    left = [run(engine, meet.format(number), wait=0) for number in range(8)]
    for number, one in enumerate(left):
        entry: CommandOutput = one
        while entry.state == "running":
            entry = follow(engine, one.sequence, None, wait=5)
        assert entry.stdout == f"{number}\n"


def test_a_flood_is_bounded_told_and_keeps_its_end(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "HEAD_BYTES", 100_000)
    monkeypatch.setattr(ring, "TAIL_BYTES", 1_000)
    done = run(engine, "head -c 3000000 /dev/zero | tr '\\0' x; echo end")
    assert done.truncated
    assert done.stdout.endswith("end\n")
    assert "bytes dropped here" in done.stdout
    assert done.stdout_dropped_bytes == 3_000_004 - 101_000
    (entry,) = history(engine)
    assert entry.stdout_dropped_bytes > done.stdout_dropped_bytes
    kept = sum(path.stat().st_size for path in (engine.settings.state_dir / "workspaces").rglob("1.out"))
    assert kept < 102_000


def test_pages_cut_no_character_and_lose_no_byte(tmp_path: Path) -> None:
    writer = journal.Journal(tmp_path / "j", 1)
    text = "aé€😀" * 50
    for byte in text.encode():
        writer.add(1, bytes((byte,)))
    writer.add(2, b"\xff\xfe")
    writer.finish()
    cursor, seen = "0:0", ""
    while not (page := journal.read_page(tmp_path / "j", 1, cursor, 7, done=True)).empty:
        seen += page.streams[1].text
        cursor = page.next_cursor
    assert seen == text
    assert cursor == f"{len(text.encode())}:2"


def test_whoever_waits_waits_for_a_whole_character(tmp_path: Path) -> None:
    writer = journal.Journal(tmp_path / "j", 1)
    writer.add(1, b"ok" + "€".encode()[:2])
    assert not writer.wait("2:0", 0)
    writer.add(1, "€".encode()[2:])
    assert writer.wait("2:0", 0)
    assert journal.read_page(tmp_path / "j", 1, "2:0", 7, done=False).streams[1].text == "€"
    writer.add(2, b"\xff\xfe\xfd")
    assert writer.wait("5:0", 0)
    writer.finish()


def test_a_page_holds_what_was_asked_for_of_both_streams_and_says_if_there_is_more(tmp_path: Path) -> None:
    writer = journal.Journal(tmp_path / "j", 1)
    writer.add(1, b"o" * 100)
    writer.add(2, b"e" * 30)
    writer.finish()

    def page(cursor: str, limit: int) -> tuple[int, int, str, bool]:
        found = journal.read_page(tmp_path / "j", 1, cursor, limit, done=True)
        return len(found.streams[1].text), len(found.streams[2].text), found.next_cursor, found.more

    assert page("0:0", 40) == (20, 20, "20:20", True)
    assert page("20:20", 40) == (30, 10, "50:30", True)
    assert page("50:30", 40) == (40, 0, "90:30", True)
    assert page("90:30", 40) == (10, 0, "100:30", False)
    assert page("0:0", 130) == (100, 30, "100:30", False)


def test_a_disk_that_is_full_drops_output_and_counts_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    writer = journal.Journal(tmp_path / "file", 1)
    writer.add(1, b"12345")
    assert writer.finish() == {1: 5, 2: 0}


def test_bad_wishes_are_refused(engine: Engine) -> None:
    nothing: dict[str, Any] = {"sequence": None, "cursor": None, "wait_seconds": None, "end": False, "limit": 1}
    call = CallRecorder(engine).call
    for requested in ({"cursor": "0:0"}, {"end": True}, {"wait_seconds": 1}, {"until": "done"}):
        with pytest.raises(InvalidArgument):
            engine.commands.logs(call, REF, **{**nothing, **requested})
    with pytest.raises(NotFound, match="command 7"):
        engine.commands.logs(call, REF, **{**nothing, "sequence": 7})
    with pytest.raises(InvalidArgument):
        run(engine, "cat", wait=1, stdin=b"x")


def test_a_machine_that_dies_loses_its_commands_and_says_so(engine: Engine) -> None:
    recorder = CallRecorder(engine)
    agent = engine.fleet.live(engine.registry.find(REF).machine_id).pid
    threading.Thread(target=lambda: (recorder.wrote.wait(), os.kill(agent, signal.SIGKILL))).start()
    with pytest.raises(MachineFailed):
        run(engine, "echo here; sleep 300", recorder=recorder)
    (entry,) = history(engine)
    assert (entry.state, entry.exit_code, entry.stdout) == ("lost", None, "here\n")
    assert entry.reason


def test_what_a_caller_attends_is_lost_with_the_node(tmp_path: Path) -> None:
    engine = a_workspace(tmp_path / "state")
    run(engine, "echo kept")
    recorder = CallRecorder(engine)

    def attend() -> None:
        with pytest.raises(MachineFailed):
            run(engine, "echo begun; sleep 300", recorder=recorder)

    lost = threading.Thread(target=attend)
    lost.start()
    recorder.wrote.wait()
    engine.close()
    lost.join()
    again = engine_at(tmp_path / "state")
    reconcile(again)
    first, second = history(again)
    assert (first.stdout, first.state, second.state, second.stdout) == ("kept\n", "finished", "lost", "begun\n")
    assert run(again, "echo on").sequence == 3
    again.lifecycle.delete(REF)
    again.close()


def test_what_goes_on_by_itself_goes_on_with_the_next_node(tmp_path: Path) -> None:
    engine = a_workspace(tmp_path / "state")
    run(engine, "echo begun; while [ ! -e go ]; do sleep 0.05; done; echo done; exit 6", wait=1)
    run(engine, f"echo two; exec sleep 301.{os.getpid()}", wait=1)
    engine.close()
    again = engine_at(tmp_path / "state")
    reconcile(again)
    assert again.lifecycle.status(REF).running_command_count == 2
    run(again, "touch go")
    entry = follow(again, 1)
    while entry.state == "running":
        entry = follow(again, 1, entry.next_cursor, wait=10)
    assert (follow(again, 1).stdout, entry.exit_code) == ("begun\ndone\n", 6)
    call = CallRecorder(again).call
    ended = again.commands.logs(call, REF, sequence=2, cursor=None, wait_seconds=None, end=True, limit=1).entries[0]
    assert (ended.state, ended.stdout, ended.exit_code) == ("ended", "two\n", 137)
    assert run(again, ["pgrep", "-f", f"sleep 301[.]{os.getpid()}"]).exit_code == 1
    kept = [path.name for path in (tmp_path / "state" / "workspaces").glob("*/journal/*/*")]
    assert sorted(kept) == ["1.out", "2.out"]
    again.lifecycle.delete(REF)
    again.close()
