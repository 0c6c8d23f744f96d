"""One node per state directory: started on demand, raced for, left, replaced."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from pyro_mcp.errors import NodeUnavailable, PermissionDenied, PyroError, Unsupported
from pyro_mcp.node.__main__ import DESCRIPTORS
from pyro_mcp.node.paths import MAX_CONTROL, About, NodePaths, peer
from pyro_mcp.node.spawn import connect_node, ensure_node
from pyro_mcp.protocol.channel import Channel, RemoteError
from pyro_mcp.protocol.pipe import Pipe
from pyro_mcp.settings import Settings
from pyro_mcp.system.process import Identity, wait_pidfd


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    settings = Settings.load(state_dir=tmp_path / "state", cache_dir=tmp_path / "cache", idle_seconds=30)
    yield settings
    connection = connect_node(settings)
    if connection is not None:
        pid = peer(connection)[0]
        connection.close()
        end(pid)


def end(pid: int, number: int = signal.SIGTERM) -> None:
    """Signal a process and wait until it is gone."""
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        signal.pidfd_send_signal(descriptor, number)
        # Not `Identity.wait`: a process whose first thread is dead counts as gone there, its sockets live a bit longer.
        assert wait_pidfd(descriptor, 20)
        os.close(descriptor)


@contextlib.contextmanager
def client(settings: Settings) -> Iterator[Channel]:
    pipe = Pipe(ensure_node(settings).detach())
    channel = Channel(pipe, initiator=True, hello={"pyro": "test", "role": "client"}, max_control=MAX_CONTROL)
    channel.start(10)
    yield channel
    channel.close()


def pid_of(connection: socket.socket) -> int:
    with connection:
        return peer(connection)[0]


def test_it_starts_on_demand_and_answers(settings: Settings) -> None:
    assert connect_node(settings) is None
    with client(settings) as channel:
        status = channel.call("node_status", timeout=30)
    assert status["running"]
    assert status["client_count"] == 1
    assert status["resident_bytes"] < 60_000_000
    assert status["machines"] == []
    assert settings.state_dir.stat().st_mode & 0o777 == 0o700
    assert NodePaths.of(settings).socket_path.stat().st_mode & 0o777 == 0o600


def test_it_takes_as_many_descriptors_as_the_host_grants(settings: Settings) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    try:
        with client(settings) as channel:
            pid = channel.peer["pid"]
            assert isinstance(pid, int)
            assert resource.prlimit(pid, resource.RLIMIT_NOFILE)[0] == min(hard, DESCRIPTORS)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_race_of_starts_makes_one_node(settings: Settings) -> None:
    with ThreadPoolExecutor(12) as pool:
        pids = list(pool.map(lambda _: pid_of(ensure_node(settings)), range(24)))
    assert len(set(pids)) == 1


def test_a_race_of_processes_makes_one_node(settings: Settings) -> None:
    script = (
        "import sys; from pyro_mcp.settings import Settings; from pyro_mcp.node.spawn import ensure_node;"
        "from pyro_mcp.node.paths import peer;"
        "print(peer(ensure_node(Settings.load(state_dir=sys.argv[1], cache_dir=sys.argv[2])))[0])"
    )
    argv = [sys.executable, "-c", script, str(settings.state_dir), str(settings.cache_dir)]
    children = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(6)]
    answers = [child.communicate(timeout=60)[0] for child in children]
    assert len(set(answers)) == 1


def test_the_state_directory_may_have_a_long_path(tmp_path: Path) -> None:
    settings = Settings.load(state_dir=tmp_path / ("long" * 50), cache_dir=tmp_path / "cache", idle_seconds=0)
    assert len(str(settings.state_dir)) > 200
    pid = pid_of(ensure_node(settings))
    end(pid)


def test_a_killed_node_is_replaced_at_once(settings: Settings) -> None:
    first = pid_of(ensure_node(settings))
    end(first, signal.SIGKILL)
    assert connect_node(settings) is None
    assert pid_of(ensure_node(settings)) != first


def test_it_leaves_when_idle_and_leaves_no_socket(settings: Settings) -> None:
    settings = replace(settings, idle_seconds=0.3)
    connection = ensure_node(settings)
    identity = Identity.of(peer(connection)[0])
    assert identity is not None
    assert not identity.wait(0.8), "it left although a client was connected"
    connection.close()
    assert identity.wait(10)
    assert sorted(path.name for path in settings.state_dir.iterdir()) == [
        "node.lock",
        "node.log",
        "pyro.db",
        "pyro.reserve",
        "start.lock",
    ]


def test_its_log_tells_why_it_left_and_when(settings: Settings) -> None:
    with client(settings) as channel:
        identity = Identity.of(channel.peer["pid"])
        channel.call("node_stop", timeout=10)
    assert identity is not None
    assert identity.wait(10)
    (line,) = NodePaths.of(settings).log.read_text().splitlines()
    assert re.fullmatch(r"[\d-]{10}T[\d:]{8} INFO pyro_mcp\.node\.server: leaving: process \d+ asked it to", line)


def test_a_refusal_to_start_is_a_line_of_the_log_too(settings: Settings) -> None:
    settings.state_dir.mkdir(mode=0o700)
    (settings.state_dir / "pyro.db").write_bytes(b"no database" * 100)
    with pytest.raises(PyroError, match=r"pyro\.db"):
        ensure_node(settings)
    line = NodePaths.of(settings).log.read_text().splitlines()[-1]
    assert re.match(r"[\d-]{10}T[\d:]{8} ERROR pyro_mcp\.node: cannot start: ", line)


def test_arriving_while_it_leaves_always_works(settings: Settings) -> None:
    settings = replace(settings, idle_seconds=0.01)
    for _ in range(30):
        with client(settings) as channel:
            assert channel.call("reap_expired", timeout=10)["count"] == 0
        time.sleep(0.01)


def test_stop_ends_it(settings: Settings) -> None:
    with client(settings) as channel:
        pid = channel.peer["pid"]
        identity = Identity.of(pid)
        assert identity is not None
        assert channel.call("node_stop", timeout=10) == {"stopped": True, "machine_count": 0}
    assert identity.wait(10)
    assert connect_node(settings) is None


def test_a_node_of_another_version_without_machines_is_replaced(settings: Settings) -> None:
    paths = NodePaths.of(settings)
    old = pid_of(ensure_node(settings))
    about = About.load(paths)
    assert about is not None
    replace(about, version="0.0.1").save(paths)
    assert pid_of(ensure_node(settings)) != old
    assert Identity.of(old) is None


def test_unknown_verbs_and_bad_parameters_are_refused(settings: Settings) -> None:
    with client(settings) as channel:
        for verb, params in [
            ("no_such_verb", {}),
            ("__init__", {}),
            ("status_vm", {"vm_id": "../../etc"}),
            ("status_vm", {"vm_id": 7}),
            ("status_vm", {}),
            ("run_in_vm", {"environment": "debian:12", "command": []}),
            ("run_in_vm", {"environment": "debian:12", "command": ["true"], "mem_mib": 0}),
            ("run_in_vm", {"environment": "debian:12", "command": ["true"], "engine": None}),
            ("node_stop", {"force": "yes"}),
        ]:
            with pytest.raises(RemoteError) as caught:
                channel.call(verb, params, timeout=30)
            assert caught.value.payload["code"] == "invalid_argument", caught.value.payload
        with pytest.raises(RemoteError) as caught:
            channel.call("status_vm", {"vm_id": "vm-000000000000"}, timeout=30)
        assert caught.value.payload["code"] == "not_found"


def test_a_hostile_client_harms_nobody(settings: Settings) -> None:
    with client(settings) as channel:
        for noise in (b"", b"\x00", b"GET / HTTP/1.1\r\n\r\n", os.urandom(100_000)):
            connection = connect_node(settings)
            assert connection is not None
            with connection, contextlib.suppress(OSError):
                connection.sendall(noise)
                connection.shutdown(socket.SHUT_WR)
        assert channel.call("node_status", timeout=30)["running"]


def test_many_clients_at_once(settings: Settings) -> None:
    def one(_: int) -> int:
        with client(settings) as channel:
            return sum(channel.call("reap_expired", timeout=20)["count"] for _ in range(20))

    ensure_node(settings).close()
    with ThreadPoolExecutor(40) as pool:
        assert list(pool.map(one, range(40))) == [0] * 40


def test_a_state_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    settings = Settings.load(state_dir=tmp_path / "file" / "state", cache_dir=tmp_path)
    with pytest.raises(PermissionDenied, match="cannot use the state directory"):
        ensure_node(settings)


def test_a_store_from_the_future_is_told_to_the_client(settings: Settings) -> None:
    import sqlite3

    settings.state_dir.mkdir()
    connection = sqlite3.connect(settings.state_dir / "pyro.db")
    connection.execute("PRAGMA user_version=9999")
    connection.execute("CREATE TABLE future (x)")
    connection.close()
    with pytest.raises(Unsupported, match="9999"):
        ensure_node(settings)


def test_a_node_that_cannot_start_says_why(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(NodeUnavailable, match="ended before it was ready"):
        ensure_node(settings)


def test_two_processes_never_hold_one_store(settings: Settings) -> None:
    """Started by hand beside a running one, a node waits for the lock and then gives up or takes over."""
    first = pid_of(ensure_node(settings))
    read, write = os.pipe()
    values = {"state_dir": str(settings.state_dir), "cache_dir": str(settings.cache_dir), "idle_seconds": 30}
    argv = [sys.executable, "-m", "pyro_mcp.node", str(write), json.dumps(values)]
    subprocess.run(argv, pass_fds=[write], check=True, stdout=subprocess.DEVNULL)
    os.close(write)
    end(first)
    with open(read, "rb") as ready:
        assert json.loads(ready.read()) == {"ready": True}
    assert pid_of(ensure_node(settings)) != first
