"""Services in the real agent: being born, becoming ready, talking, ending, and outliving their node."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pyro_mcp.engine.cancel import CANCEL_SECONDS
from pyro_mcp.engine.fleet.fleet import SHUTDOWN_SECONDS
from pyro_mcp.guest.services import readiness as probes
from pyro_mcp.guest.services import services
from pyro_mcp.guest.services.poller import Poller
from pyro_mcp.guest.services.service_group import TaggedGroup
from pyro_mcp.guest.services.service_run import ServicePlan, ServiceRun
from pyro_mcp.protocol.channel import Data, Event, RemoteError, StreamResult
from pyro_mcp.protocol.readiness import parse

from .conftest import Client, alive, until

OURS = f"r{os.getpid()}"
"""Of this run of the tests alone: who carries the mark of a run is ended with it, in all of the host."""
_RUNS = itertools.count()


def start(agent: Client, command: str | list[str], **params: Any) -> dict[str, Any]:
    argv = ["sh", "-c", command] if isinstance(command, str) else command
    given = {"name": "web", "run": f"{OURS}n{next(_RUNS)}", "argv": argv, **params}
    return agent.channel.call("service_start", given, 60)


def stop(agent: Client, started: dict[str, Any], **params: Any) -> dict[str, Any]:
    return agent.channel.call("service_stop", {"run": started["service"]["run"], **params}, 60)


def logs(agent: Client, run: str, **params: Any) -> tuple[bytes, bytes, dict[str, Any]]:
    stream = agent.channel.open("service_logs", {"run": run, **params})
    told = {1: b"", 2: b""}
    for message in stream.messages():
        if isinstance(message, Data):
            told[message.tag] += message.data
        elif isinstance(message, StreamResult):
            return told[1], told[2], message.value
    raise AssertionError


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


LISTEN = "import socket,time; s=socket.create_server(('127.0.0.1',{port})); time.sleep(300)"


def test_one_without_a_condition_runs_once_it_has_run_on(agent: Client) -> None:
    done = start(agent, "echo out; echo err >&2; exec sleep 300")
    service = done["service"]
    assert (service["state"], service["exit_code"], service["reason"]) == ("running", None, None)
    assert (done["stdout"], done["stderr"]) == ("out\n", "err\n")
    assert alive(service["pid"])
    ended = stop(agent, done)["service"]
    assert (ended["state"], ended["signal"], ended["reason"]) == ("stopped", "SIGTERM", "it was stopped")
    assert not alive(service["pid"])
    assert stop(agent, done)["service"]["state"] == "stopped"


@pytest.mark.parametrize(
    ("command", "readiness", "state", "code", "reason"),
    [
        ("echo why >&2; exit 3", None, "failed", 3, "it exited with 3 before it was running"),
        ("echo why >&2; exit 3", {"tcp": "1"}, "failed", 3, "it exited with 3 before it was ready"),
        ("echo why >&2; exit 0", {"file": "never"}, "failed", 0, "it exited with 0 before it was ready"),
        ("echo why >&2; exit 0", None, "exited", 0, "it exited with 0"),
        ("echo why >&2; kill -9 $$", None, "failed", 137, "SIGKILL ended it before it was running"),
    ],
)
def test_one_that_dies_at_once_says_so_at_once(
    agent: Client, command: str, readiness: Any, state: str, code: int, reason: str
) -> None:
    begun = time.monotonic()
    done = start(agent, command, readiness=readiness, ready_timeout_seconds=600)
    assert time.monotonic() - begun < 30
    service = done["service"]
    assert (service["state"], service["exit_code"], service["reason"]) == (state, code, reason)
    assert done["stderr"] == "why\n"


def test_what_cannot_be_started_fails_as_a_shell_would_say_it(agent: Client, tmp_path: Path) -> None:
    done = start(agent, ["no-such-program"])
    assert (done["service"]["state"], done["service"]["exit_code"]) == ("failed", 127)
    assert done["service"]["reason"] == "no-such-program: command not found"
    assert done["stderr"] == "pyro: no-such-program: command not found\n"
    assert "sh -c" in start(agent, ["sleep 300"])["service"]["reason"]
    (tmp_path / "plain").write_text("x")
    assert start(agent, ["./plain"])["service"]["exit_code"] == 126
    with pytest.raises(RemoteError, match=r"cannot start web: working directory .*/none: No such file") as caught:
        start(agent, ["true"], cwd="/workspace/none")
    assert caught.value.payload["code"] == "invalid_argument"


def test_each_kind_of_readiness(agent: Client) -> None:
    port = free_port()
    begin = f'sleep 0.3; touch made; exec python3 -c "{LISTEN.format(port=port)}"'
    http = "import http.server as h; h.test(h.SimpleHTTPRequestHandler, port={port}, bind='127.0.0.1')"
    web = free_port()
    for command, readiness in (
        (begin, {"file": "made"}),
        (begin, {"tcp": f"127.0.0.1:{port}"}),
        (begin, {"tcp": f"localhost:{port}"}),
        (["python3", "-c", http.format(port=web)], {"http": f"http://127.0.0.1:{web}/?x=1#y"}),
        ("sleep 0.2; touch made; sleep 300", {"command": "test -e made"}),
        ("sleep 0.2; touch made; sleep 300", {"command": ["test", "-e", "made"]}),
    ):
        (agent.root / "made").unlink(missing_ok=True)
        done = start(agent, command, readiness=readiness, ready_interval_ms=50)
        assert done["service"]["state"] == "ready", done
        assert done["service"]["ready_ago_ms"] is not None
        stop(agent, done)


def test_one_that_is_not_ready_in_time_is_ended_and_shows_the_end_of_its_log(agent: Client) -> None:
    done = start(agent, "echo still at it; sleep 300 & sleep 300", readiness={"file": "x"}, ready_timeout_seconds=2)
    service = done["service"]
    assert (service["state"], done["stdout"]) == ("failed", "still at it\n")
    assert service["reason"].startswith("it was not ready after 2 s: ")
    assert "No such file" in service["reason"]


@contextmanager
def server(answer: bytes, *, hang: bool = False) -> Iterator[tuple[int, list[bytes]]]:
    """Answers every connection with `answer` once a file lets it; the requests it got."""
    got: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        held: list[socket.socket] = []

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                got.append(connection.recv(65536))
                if hang:
                    held.append(connection)
                else:
                    with connection:
                        connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1], got
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)
        for connection in held:
            connection.close()


RELAY = (
    "import socket,threading\n"
    "s=socket.create_server(('127.0.0.1',{port}))\n"
    "while 1:\n c,_=s.accept(); d=socket.create_connection(('127.0.0.1',{to})); d.sendall(c.recv(65536))\n"
    " try:\n  while b:=d.recv(65536): c.sendall(b)\n except OSError: pass\n c.close()\n"
)


@pytest.mark.parametrize(
    ("answer", "state", "reason"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", "ready", None),
        (b"HTTP/1.0 302 Found\r\nLocation: http://203.0.113.1/\r\n\r\n", "ready", None),
        (b"HTTP/1.1 503 Busy\r\n\r\n", "failed", "HTTP status 503"),
        (b"HTTP/1.1 999999 No\r\n\r\n", "failed", "HTTP status 999999"),
        (b"SSH-2.0-x\r\n", "failed", "it did not answer with HTTP"),
        (b"x" * 300_000, "failed", "it did not answer with HTTP"),
        (b"", "failed", "it did not answer with HTTP"),
    ],
)
def test_what_an_http_probe_makes_of_an_answer(agent: Client, answer: bytes, state: str, reason: str | None) -> None:
    port = free_port()
    with server(answer) as (behind, got):
        command = ["python3", "-c", RELAY.format(port=port, to=behind)]
        url = f"http://127.0.0.1:{port}/up"
        patience = 60 if state == "ready" else 3
        done = start(agent, command, readiness={"http": url}, ready_timeout_seconds=patience, ready_interval_ms=100)
        assert done["service"]["state"] == state, done
        assert (done["service"]["reason"] or "").endswith(reason or "")
        assert got[0].startswith(b"GET /up HTTP/1.1\r\nHost: 127.0.0.1:")
        assert {line.split(b"\r\n")[0] for line in got} == {b"GET /up HTTP/1.1"}
        stop(agent, done)


def test_a_probe_that_hangs_does_not_hold_up_the_timeout(agent: Client) -> None:
    port = free_port()
    with server(b"", hang=True) as (behind, _):
        command = ["python3", "-c", RELAY.format(port=port, to=behind)]
        done = start(agent, command, readiness={"http": f"http://127.0.0.1:{port}"}, ready_timeout_seconds=2)
    assert done["service"]["reason"].startswith("it was not ready after 2 s")
    hung = start(agent, "sleep 300", readiness={"command": "sleep 300"}, ready_timeout_seconds=1)
    assert hung["service"]["state"] == "failed"


@pytest.mark.parametrize(
    "readiness",
    [
        {"tcp": "203.0.113.1:80"},
        {"tcp": "127.0.0.1:0"},
        {"tcp": "127.0.0.1:65536"},
        {"tcp": "127.0.0.1:-1"},
        {"tcp": "2130706433:80"},
        {"tcp": "0x7f.1:80"},
        {"tcp": "[::ffff:127.0.0.1]:80"},
        {"tcp": "example.com:80"},
        {"http": "https://127.0.0.1/"},
        {"http": "http://169.254.169.254/latest"},
        {"http": "http://127.0.0.1@203.0.113.1/"},
        {"http": "http://localhost.evil.example/"},
        {"http": "http://127.0.0.1/ x"},
        {"http": "http://127.0.0.1/\r\nX: y"},
        {"http": "file:///etc/passwd"},
        {"file": "../x"},
        {"file": "a\0b"},
        {"file": ""},
        {"command": []},
        {"command": ["true", 7]},
        {"file": "\ud800"},
        {"command": "a\0b"},
        {"tcp": "127.0.0.1:80", "file": "x"},
        {"smoke": "signals"},
        {},
        "tcp",
    ],
)
def test_conditions_that_are_refused(agent: Client, readiness: Any) -> None:
    with pytest.raises(RemoteError) as caught:
        start(agent, "touch ran; sleep 300", readiness=readiness)
    assert caught.value.payload["code"] == "invalid_argument"
    assert not (agent.root / "ran").exists()


def test_a_port_that_answers_already_proves_nothing(agent: Client) -> None:
    with server(b"") as (port, _), pytest.raises(RemoteError, match="answers on port") as caught:
        start(agent, "sleep 300", readiness={"tcp": str(port)})
    assert caught.value.payload["code"] == "conflict"


def test_all_that_it_has_started_goes_with_it(agent: Client) -> None:
    deaf = "trap '' TERM; setsid sleep 301 & (setsid sleep 302 &) ; echo $$ > pids; jobs -p >> pids; sleep 303 & wait"
    done = start(agent, deaf)
    marked = done["service"]["run"].encode()
    begun = time.monotonic()
    ended = stop(agent, done, grace_seconds=0.3)["service"]
    assert time.monotonic() - begun < 20
    assert (ended["state"], ended["signal"]) == ("stopped", "SIGKILL")
    assert not carriers(marked)
    # The same when the first process ends by itself and leaves others behind.
    done = start(agent, "sleep 304 & (setsid sleep 305 &) ; sleep 0.6; exit 0")
    assert done["service"]["state"] == "running"
    with watching(agent) as seen:
        until(lambda: seen.get(done["service"]["run"], {}).get("state") == "exited")
    assert not carriers(done["service"]["run"].encode())


def test_one_that_does_not_accept_is_soon_known_not_to_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 2 * probes.BEFORE_SECONDS < CANCEL_SECONDS
    monkeypatch.setattr(probes, "BEFORE_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as deaf, contextlib.ExitStack() as stack:
        port = deaf.getsockname()[1]
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", port))
        assert not probes.answers_already(parse({"tcp": f"127.0.0.1:{port}"}))


def carriers(mark: bytes) -> list[int]:
    """Processes with this run's mark."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and b"PYRO_SERVICE=" + mark + b"." in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


@contextmanager
def watching(agent: Client) -> Iterator[dict[str, dict[str, Any]]]:
    """The latest record of each run, as `service_watch` tells it."""
    seen: dict[str, dict[str, Any]] = {}
    stream = agent.channel.open("service_watch")
    complete = threading.Event()

    def listen() -> None:
        for message in stream.messages():
            if isinstance(message, Event) and "service" in message.value:
                record = message.value["service"]
                seen[record["run"]] = {**record, "stdout": message.value["stdout"]}
            elif isinstance(message, Event):
                complete.set()

    thread = threading.Thread(target=listen)
    thread.start()
    assert complete.wait(20)
    yield seen
    stream.cancel()
    thread.join(20)
    assert not thread.is_alive()


def test_whoever_watches_is_told_what_is_and_what_becomes(agent: Client) -> None:
    first = start(agent, "sleep 300", name="first")
    with watching(agent) as seen:
        assert seen[first["service"]["run"]]["state"] == "running"
        second = start(agent, "echo hello; sleep 300", name="second")
        run = second["service"]["run"]
        until(lambda: seen.get(run, {}).get("state") == "running")
        os.kill(second["service"]["pid"], signal.SIGKILL)
        until(lambda: seen[run]["state"] == "failed")
        assert (seen[run]["reason"], seen[run]["stdout"]) == ("SIGKILL ended it", "hello\n")
        third = start(agent, "while read x; do echo $x; done < pipe; sleep 300", name="third")
        assert third["service"]["state"] == "running"


def test_a_machine_that_is_switched_off_lets_each_end_and_tells_what_it_said_last(agent: Client) -> None:
    waits = "trap 'echo saved; exit 1' TERM; echo up; touch ready; while :; do sleep 1; done"
    run = start(agent, waits, readiness={"file": "ready"}, restart=True, cwd="/workspace")["service"]["run"]
    with watching(agent) as told:
        agent.channel.call("shutdown", timeout=30)
        until(lambda: told[run]["state"] == "stopped")
    last = told[run]
    assert (last["exit_code"], last["stdout"], last["reason"]) == (1, "up\nsaved\n", "its machine was stopped")


def test_services_that_are_slow_to_end_leave_the_machine_time_to_write_out_what_it_has_cached() -> None:
    slowest = services.LAST_GRACE_SECONDS + 2 * services.LAST_WORDS_SECONDS
    assert slowest + 10 <= SHUTDOWN_SECONDS


def test_logs_by_lines_and_all(agent: Client) -> None:
    done = start(agent, "seq 1000; echo one >&2; printf two >&2; exec sleep 300")
    run = done["service"]["run"]
    out, err, told = logs(agent, run, tail_lines=3)
    assert (out, err, told["truncated"]) == (b"998\n999\n1000\n", b"one\ntwo", True)
    assert logs(agent, run, tail_lines=1)[1] == b"two"
    out, err, told = logs(agent, run)
    assert (len(out.splitlines()), told["truncated"]) == (1000, False)
    with pytest.raises(RemoteError, match="does not know it"):
        logs(agent, "nobody")


def test_a_flood_stays_in_bounds_and_starves_nobody(agent: Client) -> None:
    flood = "yes flood & yes flood >&2 & exec sleep 300"
    done = start(agent, flood)
    before = memory(agent)
    deadline = time.monotonic() + 1.5
    while time.monotonic() < deadline:
        assert agent.exec("true").exit_code == 0
    assert memory(agent) - before < 16 * 2**20
    out, err, told = logs(agent, done["service"]["run"])
    assert told["truncated"]
    assert max(len(out), len(err)) <= 1024 * 1024
    assert set(out.splitlines()) == set(err.splitlines()) == {b"flood"}
    stop(agent, done)
    assert not carriers(done["service"]["run"].encode())


def memory(agent: Client) -> int:
    return int(Path(f"/proc/{agent.process.pid}/statm").read_text().split()[1]) * 4096


def test_a_name_in_use_and_names_that_are_none(agent: Client) -> None:
    first = start(agent, "sleep 300")
    with pytest.raises(RemoteError, match="it runs already") as caught:
        start(agent, "sleep 300")
    assert caught.value.payload["code"] == "conflict"
    stop(agent, first)
    stop(agent, start(agent, "sleep 300"))
    for name in ("", "-x", "a/b", "a b", "x" * 65, "a\0", 7):
        with pytest.raises(RemoteError, match="name must match"):
            start(agent, "sleep 300", name=name)
    with pytest.raises(RemoteError, match="NUL"):
        start(agent, ["a\0b"])


def test_two_hundred_are_served_or_refused(agent: Client) -> None:
    outcomes: list[str] = []

    def one(number: int) -> None:
        try:
            outcomes.append(start(agent, ["sleep", "300"], name=f"s{number}")["service"]["state"])
        except RemoteError as error:
            outcomes.append(error.payload["code"])

    threads = [threading.Thread(target=one, args=(number,)) for number in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(outcomes) == ["capacity"] * 136 + ["running"] * 64
    assert agent.exec("true").exit_code == 0


def test_what_has_ended_is_kept_in_bounds(agent: Client, open_fds: Any) -> None:
    first = start(agent, ["true"], name="first")["service"]["run"]
    assert logs(agent, first)[2]["service"]["state"] == "exited"
    before = open_fds()
    for number in range(70):
        assert start(agent, ["true"], name=f"s{number}")["service"]["state"] == "exited"
    with pytest.raises(RemoteError, match="does not know it"):
        logs(agent, first)
    assert open_fds() == before


def test_a_cancelled_start_ends_what_had_begun(agent: Client) -> None:
    given = {"name": "web", "run": f"{OURS}c", "argv": ["sleep", "300"], "readiness": {"file": "never"}}
    stream = agent.channel.open("service_start", given)
    with watching(agent) as seen:
        until(lambda: seen.get(f"{OURS}c", {}).get("pid") is not None)
        pid = seen[f"{OURS}c"]["pid"]
        stream.cancel()
        until(lambda: seen[f"{OURS}c"]["state"] == "stopped")
        assert seen[f"{OURS}c"]["reason"] == "its start was cancelled"
    assert not alive(pid)


def test_one_that_fails_is_restarted_if_asked_to(agent: Client) -> None:
    command = "echo x >> runs; sleep 1; test $(wc -l < runs) -ge 2 || exit 9; exec sleep 300"
    done = start(agent, command, restart=True)
    run = done["service"]["run"]
    with watching(agent) as seen:
        until(lambda: seen[run]["restart_count"] == 1 and seen[run]["state"] == "running")
        assert logs(agent, run)[2]["service"]["restart_count"] == 1
        assert stop(agent, done)["service"]["state"] == "stopped"


def test_one_that_is_to_be_restarted_can_be_stopped(agent: Client) -> None:
    done = start(agent, "sleep 1; exit 9", restart=True)
    run = done["service"]["run"]
    with watching(agent) as seen:
        until(lambda: "it starts again in" in (seen[run]["reason"] or ""))
        assert stop(agent, done)["service"]["state"] == "stopped"
        assert not carriers(run.encode())


def test_one_that_was_stopped_before_it_began_does_not_begin(tmp_path: Path) -> None:
    plan = ServicePlan("web", OURS, [b"touch", b"ran"], os.fsencode(tmp_path), {}, None, 30.0, 0.5, False, os.fsencode)
    poller = Poller("alone")
    service = ServiceRun(plan, poller, TaggedGroup, 4096, lambda: None)
    service.stop("stopped", "it was stopped", 1.0)
    service.begin()
    assert (service.record["state"], service._child) == ("stopped", None)


def test_one_whose_remains_never_fall_silent_ends_all_the_same() -> None:
    """What has shed the mark of its service lives on, and may write for ever."""
    plan = ServicePlan("web", OURS, [b"true"], b"/", {}, None, 30.0, 0.5, False, os.fsencode)
    service = ServiceRun(plan, Poller("alone"), TaggedGroup, 4096, lambda: None)
    service._outputs[os.open("/dev/zero", os.O_RDONLY)] = 1
    closing = threading.Thread(target=service._close, daemon=True)
    closing.start()
    closing.join(20)
    assert not closing.is_alive()


def test_a_host_without_ipv6_has_nobody_listening_there(monkeypatch: pytest.MonkeyPatch) -> None:
    port, real = free_port(), probes._socket.socket

    def refusing(family: int, *more: int) -> Any:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "no such family")
        return real(family, *more)

    monkeypatch.setattr(probes._socket, "socket", refusing)
    assert probes.answers_already(parse({"tcp": f"localhost:{port}"})) is False
