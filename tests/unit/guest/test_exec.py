"""exec against the real agent and real processes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pyro_mcp.guest.exec import run as exec_module
from pyro_mcp.guest.exec.run import TRANSFER_NICE
from pyro_mcp.protocol.channel import Data, RemoteError
from pyro_mcp.protocol.wake import Wake

from .conftest import Client, alive, collect, until


def test_separates_output_and_error_and_reports_the_exit_code(agent: Client) -> None:
    outcome = agent.exec("sh", "-c", "echo out; echo err >&2; exit 3")
    assert (outcome.stdout, outcome.stderr) == (b"out\n", b"err\n")
    assert outcome.result["exit_code"] == 3
    assert outcome.result["signal"] is None
    assert outcome.result["timed_out"] is False
    assert isinstance(outcome.result["duration_ms"], int)


@pytest.mark.parametrize(("name", "number"), [("KILL", 9), ("TERM", 15), ("SEGV", 11)])
def test_names_the_signal(agent: Client, name: str, number: int) -> None:
    outcome = agent.exec("sh", "-c", f"kill -{name} $$")
    assert outcome.result["signal"] == f"SIG{name}"
    assert outcome.exit_code == 128 + number


def test_input_is_empty_unless_given(agent: Client) -> None:
    assert agent.exec("cat").stdout == b""


def test_input_reaches_the_command_and_ends(agent: Client) -> None:
    data = os.urandom(3_000_000)
    assert agent.exec("cat", stdin=data).stdout == data


def test_empty_input_ends(agent: Client) -> None:
    assert agent.exec("cat", stdin=b"").exit_code == 0


@pytest.mark.parametrize("script", ["exec 0<&-; sleep 0.2; echo done", "head -c 5 >/dev/null; echo done", "echo done"])
def test_a_command_that_does_not_read_its_input_is_not_hurt(agent: Client, script: str) -> None:
    outcome = agent.exec("sh", "-c", script, stdin=b"x" * 5_000_000)
    assert (outcome.exit_code, outcome.stdout, outcome.stderr) == (0, b"done\n", b"")


def test_output_comes_while_the_command_runs(agent: Client) -> None:
    stream = agent.channel.open("exec", {"argv": ["sh", "-c", "echo first; read line; echo $line"], "stdin": True})
    assert stream.receive(5) == Data(1, b"first\n")
    stream.send(b"second\n")
    assert stream.receive(5) == Data(1, b"second\n")
    stream.end()
    assert collect(stream).exit_code == 0


def test_bytes_are_not_text(agent: Client) -> None:
    outcome = agent.exec("printf", r"\377\000\200no newline")
    assert outcome.stdout == b"\xff\x00\x80no newline"


def test_a_hundred_megabytes_arrive_in_order(agent: Client) -> None:
    stream = agent.channel.open("exec", {"argv": ["seq", "1", "12500000"]})
    size = lines = 0
    last = b""
    for message in stream.messages():
        if isinstance(message, Data):
            size += len(message.data)
            lines += message.data.count(b"\n")
            last = message.data
    assert size > 100_000_000
    assert lines == 12_500_000
    assert last.endswith(b"12500000\n")


def test_a_consumer_that_stops_stops_only_its_own_command(agent: Client) -> None:
    stalled = agent.channel.open("exec", {"argv": ["yes"]})
    for _ in range(5):
        assert agent.exec("echo", "hello").stdout == b"hello\n"
    stalled.cancel()
    assert collect(stalled).result["signal"] == "SIGKILL"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may raise a thread's priority again")
def test_a_transfer_gives_way_and_its_thread_comes_back(agent: Client) -> None:
    def levels() -> set[int]:
        own = agent.process.pid
        threads = [int(name) for name in os.listdir(f"/proc/{own}/task")]
        return {os.getpriority(os.PRIO_PROCESS, thread) for thread in threads}

    usual = os.getpriority(os.PRIO_PROCESS, agent.process.pid)
    stalled = agent.channel.open("exec", {"argv": ["yes"]})
    until(lambda: levels() == {usual, usual + TRANSFER_NICE})
    assert agent.exec("nice").stdout == b"%d\n" % usual
    stalled.cancel()
    collect(stalled)
    assert levels() == {usual}


def test_a_stalled_consumer_does_not_delay_the_timeout(agent: Client, tmp_path: Path) -> None:
    script = f"echo $$ > {tmp_path}/pid; exec yes"
    stream = agent.channel.open("exec", {"argv": ["sh", "-c", script], "timeout_seconds": 2})
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    pid = int((tmp_path / "pid").read_text())
    until(lambda: not alive(pid))
    assert collect(stream).result["timed_out"] is True


def test_timeout_kills_the_whole_group(agent: Client, tmp_path: Path) -> None:
    begun = time.monotonic()
    script = f"trap '' TERM; (trap '' TERM; echo $$ > {tmp_path}/child; sleep 60) & sleep 60; sleep 60"
    outcome = agent.exec("sh", "-c", script, timeout_seconds=1)
    assert time.monotonic() - begun < 50
    assert (outcome.exit_code, outcome.result["timed_out"], outcome.result["signal"]) == (124, True, "SIGKILL")


# What leaves its group and its parent, and what has left before the command was ended.
LEAVES = "(setsid sh -c 'echo $$ > {0}/child; exec sleep 60' &); until test -s {0}/child; do sleep 0.01; done; "


def test_a_timeout_ends_what_has_left_the_group(agent: Client, tmp_path: Path) -> None:
    begun = time.monotonic()
    assert agent.exec("sh", "-c", LEAVES.format(tmp_path) + "sleep 60", timeout_seconds=1).exit_code == 124
    assert not alive(int((tmp_path / "child").read_text()))
    assert time.monotonic() - begun < 20


def test_a_cancel_ends_what_has_left_the_group_and_nothing_of_others(agent: Client, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    assert agent.exec("sh", "-c", LEAVES.format(tmp_path / "other")).exit_code == 0
    stream = agent.channel.open("exec", {"argv": ["sh", "-c", LEAVES.format(tmp_path) + "echo up; sleep 60"]})
    assert isinstance(stream.receive(10), Data)
    child, other = (int((path / "child").read_text()) for path in (tmp_path, tmp_path / "other"))
    stream.cancel()
    until(lambda: not alive(child))
    # What a command that ended by itself has left runs on.
    assert alive(other)
    os.kill(other, signal.SIGKILL)


def test_timeout_ends_a_stopped_command_and_one_that_leaves_children(agent: Client, tmp_path: Path) -> None:
    assert agent.exec("sh", "-c", "kill -STOP $$", timeout_seconds=0.2).exit_code == 124
    script = f"(trap '' TERM; sleep 60 & echo $! > {tmp_path}/child; wait) & wait"
    assert agent.exec("sh", "-c", script, timeout_seconds=2).exit_code == 124
    child = int((tmp_path / "child").read_text())
    until(lambda: not alive(child))


def test_a_child_that_keeps_the_pipe_open_does_not_hang_the_answer(agent: Client) -> None:
    begun = time.monotonic()
    outcome = agent.exec("sh", "-c", "sleep 60 & echo done")
    assert outcome.stdout == b"done\n"
    assert time.monotonic() - begun < 50


def test_a_child_that_keeps_talking_does_not_hang_the_answer(agent: Client) -> None:
    begun = time.monotonic()
    outcome = agent.exec("sh", "-c", "yes & sleep 0.1")
    assert outcome.exit_code == 0
    assert time.monotonic() - begun < 50


def test_what_was_written_before_the_end_is_never_lost(agent: Client) -> None:
    for _ in range(20):
        assert len(agent.exec("sh", "-c", "sleep 5 & head -c 60000 /dev/zero").stdout) == 60000


def test_cancel_kills_the_group_at_once(agent: Client, tmp_path: Path) -> None:
    script = f"trap '' TERM; sleep 60 & echo $! > {tmp_path}/child; wait"
    stream = agent.channel.open("exec", {"argv": ["sh", "-c", script]})
    until(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text())
    stream.cancel()
    assert collect(stream).result["signal"] == "SIGKILL"
    child = int((tmp_path / "child").read_text())
    until(lambda: not alive(child))


def test_the_peer_says_when_the_time_is_up_and_what_was_said_then_arrives(agent: Client, tmp_path: Path) -> None:
    script = f"trap 'echo last; exit 3' TERM; echo $$ > {tmp_path}/pid; sleep 60 & wait"
    stream = agent.channel.open("exec", {"argv": ["sh", "-c", script]})
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    stream.expire()
    ended = collect(stream)
    assert (ended.stdout, ended.exit_code, ended.result["timed_out"]) == (b"last\n", 124, True)


def test_one_that_ignores_it_is_killed_after_a_grace(agent: Client, tmp_path: Path) -> None:
    script = f"trap '' TERM; echo $$ > {tmp_path}/pid; sleep 60; sleep 60"
    stream = agent.channel.open("exec", {"argv": ["sh", "-c", script]})
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    stream.expire()
    ended = collect(stream)
    assert (ended.exit_code, ended.result["signal"], ended.result["timed_out"]) == (124, "SIGKILL", True)


def test_command_not_found(agent: Client) -> None:
    outcome = agent.exec("no-such-program")
    assert outcome.exit_code == 127
    assert outcome.stderr == b"pyro: no-such-program: command not found\n"
    assert b"sh -c" in agent.exec("echo hello").stderr
    assert agent.exec("/no/such/program").exit_code == 127


def test_not_executable(agent: Client, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("no program")
    assert agent.exec(str(plain)).exit_code == 126
    plain.chmod(0o755)
    assert agent.exec(str(plain)).exit_code == 126
    assert agent.exec(str(tmp_path)).exit_code == 126


def test_environment_is_the_given_one_on_top_of_a_small_one(agent: Client) -> None:
    lines = agent.exec("env", env={"GREETING": "grüß dich", "HOME": "/tmp"}).stdout.decode().splitlines()
    assert set(lines) >= {"GREETING=grüß dich", "HOME=/tmp", "LANG=C.UTF-8", "TERM=dumb"}
    assert [line for line in lines if line.startswith("PYRO_")] == [lines[-1]]
    assert len(lines) == 7


def test_the_given_path_finds_the_program(agent: Client, tmp_path: Path) -> None:
    program = tmp_path / "mine"
    program.write_text("#!/bin/sh\necho mine\n")
    program.chmod(0o755)
    assert agent.exec("mine", env={"PATH": f"/nowhere:{tmp_path}"}).stdout == b"mine\n"


def test_the_command_starts_where_it_should(agent: Client, tmp_path: Path) -> None:
    assert agent.exec("pwd").stdout.decode().strip() == str(tmp_path)
    assert agent.exec("pwd", cwd="/usr").stdout == b"/usr\n"


def test_undecodable_arguments_survive(agent: Client) -> None:
    assert agent.exec("printf", "%s", os.fsdecode(b"\xff\xfe")).stdout == b"\xff\xfe"


def test_a_command_has_no_descriptor_of_the_agents_and_no_odd_signal_state(agent: Client) -> None:
    assert agent.exec("ls", "/proc/self/fd").stdout.split() == [b"0", b"1", b"2", b"3"]
    status = dict(line.split(b":\t", 1) for line in agent.exec("cat", "/proc/self/status").stdout.splitlines())
    reserved = 1 << 31  # glibc's posix_spawn leaves its own signal 32 ignored, so under `make` we inherit that
    assert int(status[b"SigIgn"], 16) & ~reserved == 0
    assert int(status[b"SigBlk"], 16) == 0


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"argv": []},
        {"argv": [""]},
        {"argv": "ls"},
        {"argv": ["ls", 1]},
        {"argv": ["a\0b"]},
        {"argv": ["\ud800"]},
        {"argv": ["true"] * 20000},
        {"argv": ["true", "x" * 200_000]},
        {"argv": ["true"], "cwd": "relative"},
        {"argv": ["true"], "cwd": 7},
        {"argv": ["true"], "cwd": "/no/such/directory"},
        {"argv": ["true"], "cwd": "/etc/passwd"},
        {"argv": ["true"], "cwd": "/" + "x" * 5000},
        {"argv": ["true"], "env": ["A=1"]},
        {"argv": ["true"], "env": {"A=B": "1"}},
        {"argv": ["true"], "env": {"": "1"}},
        {"argv": ["true"], "env": {"A": 1}},
        {"argv": ["true"], "timeout_seconds": 0},
        {"argv": ["true"], "timeout_seconds": -1},
        {"argv": ["true"], "timeout_seconds": "1"},
        {"argv": ["true"], "timeout_seconds": True},
        {"argv": ["true"], "timeout_seconds": 1e300},
        {"argv": ["true"], "timeout_seconds": 10**400},
        {"argv": ["true"], "stdin": 1},
    ],
)
def test_bad_parameters_are_refused(agent: Client, params: dict[str, object]) -> None:
    with pytest.raises(RemoteError) as caught:
        agent.channel.call("exec", params, timeout=10)
    assert caught.value.payload["code"] == "invalid_argument"
    assert agent.exec("true").exit_code == 0


def test_input_with_another_tag_ends_the_command(agent: Client) -> None:
    stream = agent.channel.open("exec", {"argv": ["sleep", "60"], "stdin": True})
    stream.send(b"x", tag=2)
    with pytest.raises(RemoteError, match="tag 0"):
        stream.receive(5)


def test_nothing_leaks_over_many_commands(agent: Client, open_fds: Callable[[], int]) -> None:
    agent.exec("true")
    before = open_fds()
    for number in range(50):
        agent.exec("true", stdin=b"unread")
        agent.exec("no-such-program")
        agent.exec("sh", "-c", "sleep 0.01 &")
        if number % 10 == 0:
            agent.exec("sleep", "9", timeout_seconds=0.01)
    until(lambda: open_fds() == before)
    children = Path(f"/proc/{agent.process.pid}/task/{agent.process.pid}/children")
    until(lambda: not children.exists() or not children.read_text().strip())


def test_many_commands_at_once(agent: Client) -> None:
    streams = [agent.channel.open("exec", {"argv": ["sh", "-c", f"sleep 0.2; echo {n}"]}) for n in range(40)]
    assert [collect(stream).stdout for stream in streams] == [f"{n}\n".encode() for n in range(40)]


def test_room_that_comes_while_output_is_held_back_waits_for_the_next_turn() -> None:
    """Both streams are ready, there is no room for the first, and the reader grants some before the second's turn."""

    class Peer:
        rooms = iter([0, 100, 100])

        @property
        def room(self) -> int:
            return next(self.rooms)

    wake = Wake()
    run = exec_module._Run(Peer(), wake, False)  # type: ignore[arg-type]
    (out, writer), (err, ended) = os.pipe(), os.pipe()
    os.write(writer, b"said")
    os.close(ended)
    run._outputs = {out: 1, err: 2}
    run._arm(True)
    for ready in (out, err):
        run._pull_output(ready)
    assert set(run._outputs) == {out, err}
    run._arm(True)
    run._pull_output(err)
    assert set(run._outputs) == {out}
    run.close()
    os.close(writer)
    wake.close()
