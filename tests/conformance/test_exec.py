"""exec, on every driver: the same agent must keep the same promises wherever it runs."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid
from typing import Any

import pytest

from pyro_mcp.engine.commands import run as exec_module
from pyro_mcp.model.command import agent_request
from pyro_mcp.operations.call import Call
from pyro_mcp.protocol.channel import ChannelClosed, Data, RemoteError

from .conftest import Outcome, Sandbox


def test_streams_are_apart_and_words_keep_their_boundaries(sandbox: Sandbox) -> None:
    done = sandbox.run("sh", "-c", 'printf "%s|" "$@"; echo err >&2; exit 3', "sh", "a b", "", "c'd\"e", "*")
    assert done.stdout == b"a b||c'd\"e|*|"
    assert done.stderr == b"err\n"
    assert done.exit_code == 3
    assert done.result["signal"] is None
    assert done.result["timed_out"] is False


def test_any_bytes_pass_both_ways(sandbox: Sandbox) -> None:
    blob = bytes(range(256)) * 4096
    stream = sandbox.start("cat", stdin=True)
    threading.Thread(target=lambda: (stream.send(blob), stream.end())).start()
    assert sandbox.finish(stream).stdout == blob


def test_output_without_a_newline_and_none_at_all(sandbox: Sandbox) -> None:
    assert sandbox.run("printf", "no newline").stdout == b"no newline"
    assert sandbox.run("true").stdout == b""


def test_a_signal_is_named(sandbox: Sandbox) -> None:
    done = sandbox.run("sh", "-c", "kill -SEGV $$")
    assert done.result["signal"] == "SIGSEGV"
    assert done.exit_code == 128 + 11


def test_a_timeout_ends_the_whole_group(sandbox: Sandbox) -> None:
    mark = uuid.uuid4().hex
    begun = time.monotonic()
    script = f"trap '' TERM; sh -c 'sleep 987; : {mark}' & (setsid sh -c 'sleep 987; : {mark}' &); sleep 987"
    done = sandbox.run("sh", "-c", script, timeout_seconds=1)
    assert done.result["timed_out"] is True
    assert done.exit_code == 124
    assert time.monotonic() - begun < 10
    assert alive(sandbox, mark) == b""


def test_the_nodes_clock_ends_a_command_whatever_the_agents_says(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exec_module, "guest_limit", lambda seconds: 86400.0)
    said: list[tuple[int, bytes]] = []
    done = exec_module.execute(
        Call(None),
        sandbox.machine,
        "trap 'echo last; exit 3' TERM; sleep 987 & wait",
        lambda tag, data: said.append((tag, data)),
        timeout_seconds=2,
    )
    assert (done["exit_code"], done["timed_out"], said) == (124, True, [(1, b"last\n")])
    assert done["duration_ms"] >= 2000


def test_cancel_ends_the_whole_group(sandbox: Sandbox) -> None:
    mark = uuid.uuid4().hex
    script = f"(setsid sh -c 'sleep 987; : {mark}' &); echo up; sh -c 'sleep 987; : {mark}' & wait"
    stream = sandbox.start("sh", "-c", script)
    assert isinstance(stream.receive(10), Data)
    stream.cancel()
    with contextlib.suppress(RemoteError):
        sandbox.finish(stream)
    assert alive(sandbox, mark) == b""


def test_a_child_that_keeps_the_pipe_open_does_not_hang_the_answer(sandbox: Sandbox) -> None:
    begun = time.monotonic()
    done = sandbox.run("sh", "-c", "sleep 20 & echo done")
    assert done.stdout == b"done\n"
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize(("argv", "code"), [(["no-such-command"], 127), (["/"], 126), (["a b c"], 127)])
def test_what_cannot_be_started_ends_like_in_a_shell(sandbox: Sandbox, argv: list[str], code: int) -> None:
    done = sandbox.run(*argv)
    assert done.exit_code == code
    assert done.stderr.startswith(b"pyro: ")


@pytest.mark.parametrize(
    "broken",
    [
        *({"argv": []}, {"argv": "ls"}, {"argv": ["a\0b"]}, {"shell": "yes"}),
        *({"cwd": "nowhere"}, {"cwd": "/nowhere"}, {"cwd": "/etc/passwd"}, {"cwd": "a\0b"}, {"cwd": "x" * 5000}),
        *({"env": {"A=B": "c"}}, {"env": {"": "c"}}, {"env": {"A": "b\0c"}}, {"env": {"A": 1}}, {"env": ["A=1"]}),
        {"env": {"A": "x" * 200_000}},
    ],
    ids=lambda broken: str(broken)[:60],
)
def test_bad_parameters_are_refused_with_a_code(sandbox: Sandbox, broken: dict[str, object]) -> None:
    request = {"argv": ["true"], "env": {}, "timeout_seconds": 5, "stdin": False, **broken}
    with pytest.raises(RemoteError) as caught:
        sandbox.machine.channel.call("exec", request, timeout=10)
    assert caught.value.payload["code"] == "invalid_argument"
    assert sandbox.run("true").exit_code == 0


def line(sandbox: Sandbox, text: str, **how: Any) -> Outcome:
    """A line for the shell, asked for as the engine does it."""
    seconds = how.pop("timeout_seconds", 30)
    request = {**agent_request(text, **how), "timeout_seconds": seconds}
    return sandbox.finish(sandbox.machine.channel.open("exec", request))


def test_a_line_is_read_by_bash_that_is_no_login_shell(sandbox: Sandbox) -> None:
    done = line(sandbox, 'a=(1 2 3); [[ x == x ]] && echo "${a[2]} $- $0 <(:)"; shopt -q login_shell || echo plain')
    first, second = done.stdout.decode().splitlines()
    assert first.startswith("3 ")
    assert "i" not in first.split()[1]
    assert (first.split()[2], second) == ("/bin/bash", "plain")
    assert line(sandbox, "cat <(echo made) <<<given -; set -o pipefail; false | true").stdout == b"made\ngiven\n"
    assert line(sandbox, "set -o pipefail; false | true").exit_code == 1
    words = sandbox.run("/bin/sh", "-c", 'echo "$0"')
    assert words.stdout == b"/bin/sh\n", "words are run as they stand"


def test_a_line_ends_as_it_did_for_sh(sandbox: Sandbox) -> None:
    assert line(sandbox, "exit 7").exit_code == 7
    assert line(sandbox, "no-such-command").exit_code == 127
    assert line(sandbox, "/etc/passwd").exit_code == 126
    assert line(sandbox, "kill -9 $$").result["signal"] == "SIGKILL"
    assert line(sandbox, "sh -c 'kill -SEGV $$'; exit $?").exit_code == 139
    mark = uuid.uuid4().hex
    begun = time.monotonic()
    done = line(sandbox, f"trap '' TERM; sh -c 'sleep 987; : {mark}' & sleep 987; :", timeout_seconds=1)
    assert (done.exit_code, done.result["timed_out"]) == (124, True)
    assert time.monotonic() - begun < 10
    assert alive(sandbox, mark) == b""
    stream = sandbox.machine.channel.open("exec", agent_request(f"echo up; sh -c 'sleep 987; : {mark}' | cat; :"))
    assert isinstance(stream.receive(10), Data)
    stream.cancel()
    with contextlib.suppress(RemoteError):
        sandbox.finish(stream)
    assert alive(sandbox, mark) == b""


def test_a_command_starts_where_it_is_told(sandbox: Sandbox) -> None:
    home = sandbox.run("pwd").stdout.decode().strip()
    assert sandbox.run("pwd").result["cwd"] == home
    sandbox.run("mkdir", "-p", "here/below")
    for cwd, where in (("here", "here"), ("./here/", "here"), ("here/below/..", "here"), (f"{home}/here", "here")):
        done = line(sandbox, "pwd", cwd=cwd)
        assert (done.stdout.decode().strip(), done.result["cwd"]) == (f"{home}/{where}",) * 2
    assert line(sandbox, "pwd", cwd="/etc").stdout == b"/etc\n"
    with pytest.raises(
        RemoteError, match=r"cannot run the command: working directory .*/here/not: No such file"
    ) as caught:
        line(sandbox, "pwd", cwd="here/not")
    assert caught.value.payload["code"] == "invalid_argument"
    sandbox.run("rm", "-r", "here")


def test_variables_reach_the_command_and_nothing_else(sandbox: Sandbox) -> None:
    given = {"A": "1", "_b2": "two words", "LINES_": "x\ny=z\n", "EMPTY": "", "UTF": "é€"}
    done = sandbox.run("env", "-0", env=given)
    seen = dict(entry.split("=", 1) for entry in done.stdout.decode().split("\0") if entry)
    assert {name: seen[name] for name in given} == given
    assert "HOME" in seen, "they are added to what is there"
    assert not set(given) & {entry.split("=")[0] for entry in sandbox.run("env").stdout.decode().splitlines()}


def test_a_path_of_the_callers_own_finds_the_program(sandbox: Sandbox) -> None:
    home = sandbox.run("pwd").stdout.decode().strip()
    line(sandbox, "mkdir own && printf '#!/bin/sh\necho mine\n' >own/env && chmod +x own/env")
    assert sandbox.run("env", env={"PATH": f"{home}/own:/bin"}).stdout == b"mine\n"
    assert sandbox.run("env", env={"PATH": f"{home}/nothing"}).exit_code == 127
    assert line(sandbox, "echo $PATH; echo still bash ${BASH_VERSION:+yes}", env={"PATH": "/x"}).stdout == (
        b"/x\nstill bash yes\n"
    )
    sandbox.run("rm", "-r", "own")


def test_what_misleads_a_loader_misleads_only_the_command(sandbox: Sandbox) -> None:
    hostile = {"LD_PRELOAD": "/no/such.so", "PYTHONPATH": "/no", "PYTHONSTARTUP": "/no", "BASH_ENV": "/no", "IFS": "x"}
    told = sandbox.run("true", env=hostile)
    assert (told.exit_code, b"/no/such.so" in told.stderr) == (0, True)
    assert sandbox.run("true", env={"LD_LIBRARY_PATH": "/no"}).exit_code == 0
    assert sandbox.run("true").stderr == b""
    assert sandbox.run("sh", "-c", "tr '\\0' '\\n' </proc/$PPID/environ | grep -c no/such; :").stdout == b"0\n"


def test_a_hundred_megabytes_come_whole(sandbox: Sandbox) -> None:
    stream = sandbox.start("head", "-c", str(100 * 1024 * 1024), "/dev/zero", timeout_seconds=120)
    received = 0
    for message in stream.messages():
        if isinstance(message, Data):
            received += len(message.data)
    assert received == 100 * 1024 * 1024


def test_a_reader_that_stops_stalls_only_itself(sandbox: Sandbox) -> None:
    stalled = sandbox.start("yes")
    stalled.receive(10)
    for _ in range(5):
        assert sandbox.run("echo", "meanwhile").stdout == b"meanwhile\n"
    stalled.cancel()


def test_many_at_once_each_get_their_own(sandbox: Sandbox) -> None:
    streams = [sandbox.start("sh", "-c", f"echo {number}; exit {number}") for number in range(20)]
    for number, stream in enumerate(streams):
        done = sandbox.finish(stream)
        assert (done.stdout, done.exit_code) == (f"{number}\n".encode(), number)


def test_nothing_of_the_callers_environment_is_there(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYRO_TEST_CANARY", "tweet-3f9a")
    seen = sandbox.run("env").stdout
    assert b"tweet-3f9a" not in seen
    assert b"AWS" not in seen
    assert not any(line.startswith(b"SSL_CERT_FILE=") for line in seen.splitlines()), os.environ.get("SSL_CERT_FILE")


def test_a_bounded_machine_has_the_memory_it_was_given(sandbox: Sandbox) -> None:
    sandbox.needs("memory_bound")
    total = int(sandbox.run("sh", "-c", "awk '/MemTotal/ {print $2}' /proc/meminfo").stdout) // 1024
    assert 400 < total <= 512


def test_a_guest_has_no_network_card_and_no_name_server(sandbox: Sandbox) -> None:
    sandbox.needs("own_kernel")
    assert sandbox.run("ls", "/sys/class/net").stdout.split() == [b"lo"]
    probe = "exec 3<>/dev/tcp/192.0.2.1/80"
    assert sandbox.run("bash", "-c", probe).exit_code != 0
    assert sandbox.run("getent", "hosts", "deb.example.org").exit_code != 0


def test_the_next_node_takes_over_and_the_dead_ones_command_is_ended(sandbox: Sandbox) -> None:
    mark = uuid.uuid4().hex
    stream = sandbox.start("sh", "-c", f"echo up; sleep 987; : {mark}")
    stream.receive(10)
    sandbox.machine.channel.close("the node dies")
    with pytest.raises(ChannelClosed):
        list(stream.messages())
    again = sandbox.driver.adopt(sandbox.spec.machine_id, sandbox.spec.directory)
    assert again is not None
    sandbox.machine = again
    assert alive(sandbox, mark) == b""


def test_terminate_is_idempotent_and_nothing_is_left_to_adopt(sandbox: Sandbox) -> None:
    """Last in the module: it ends the machine."""
    sandbox.machine.terminate()
    sandbox.machine.terminate()
    assert not sandbox.machine.alive()
    assert sandbox.driver.adopt(sandbox.spec.machine_id, sandbox.spec.directory) is None


def alive(sandbox: Sandbox, mark: str) -> bytes:
    """Processes in the machine whose command line holds `mark`, after a moment to die."""
    pattern = f"[{mark[0]}]{mark[1:]}"  # does not match its own command line
    look = f"grep -l -a '{pattern}' /proc/[0-9]*/cmdline 2>/dev/null"
    line = f'for i in 1 2 3 4 5; do left=$({look}); [ -z "$left" ] && exit 0; sleep 0.3; done; echo "$left"'
    return sandbox.run("sh", "-c", line).stdout
