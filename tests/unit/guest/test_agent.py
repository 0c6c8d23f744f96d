"""The agent's life: verbs, connections, loss."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyro_mcp.guest.exec import children
from pyro_mcp.guest.main import main
from pyro_mcp.protocol.channel import Channel, ChannelClosed, RemoteError
from pyro_mcp.protocol.pipe import Pipe
from pyro_mcp.system.sockets import connect_unix

from .conftest import START, Client, alive, collect, until


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    """An agent listening at a path too long for a socket address."""
    directory = tmp_path / ("d" * 120)
    directory.mkdir()
    path = directory / "agent.sock"
    source = str(Path(__file__).parents[3] / "src")
    command = [sys.executable, "-I", "-S", "-c", START, source, "--listen", str(path), "--root", str(tmp_path)]
    process = subprocess.Popen(command, start_new_session=True)
    until(path.exists)
    yield path, process
    process.terminate()
    assert process.wait(10) == 0
    assert not path.exists()


def connect(path: Path) -> Channel:
    def attempt() -> socket.socket | None:
        try:
            return connect_unix(path)
        except ConnectionRefusedError:
            return None

    found: list[socket.socket] = []
    until(lambda: found or found.extend(filter(None, [attempt()])) or found)
    channel = Channel(Pipe(found[0].detach()), initiator=True, hello={"role": "node"})
    channel.start(10)
    return channel


def test_says_who_it_is(agent: Client) -> None:
    assert agent.hello["role"] == "agent"
    assert agent.hello["pid"] == agent.process.pid
    assert "exec" in agent.hello["verbs"]


def test_an_unknown_verb_is_refused_and_nothing_else_happens(agent: Client) -> None:
    with pytest.raises(RemoteError) as caught:
        agent.channel.call("dance", {"a": 1}, timeout=5)
    assert caught.value.payload["code"] == "unsupported"
    assert "dance" in caught.value.payload["message"]
    assert agent.exec("true").exit_code == 0


def test_a_lost_channel_kills_what_runs(agent: Client, tmp_path: Path) -> None:
    script = f"trap '' TERM; sleep 60 & echo $! > {tmp_path}/child; wait"
    agent.channel.open("exec", {"argv": ["sh", "-c", script]})
    until(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text())
    agent.channel.close("lost")
    child = int((tmp_path / "child").read_text())
    until(lambda: not alive(child))
    assert agent.process.wait(10) == 0


def test_serves_one_node_after_another(listener: tuple[Path, subprocess.Popen[bytes]]) -> None:
    path, _ = listener
    first = connect(path)
    pending = first.open("exec", {"argv": ["sleep", "60"]})
    first.close("the node dies")
    with pytest.raises(ChannelClosed):
        pending.receive(5)
    second = connect(path)
    assert collect(second.open("exec", {"argv": ["echo", "again"]})).stdout == b"again\n"
    second.close()


def test_survives_a_peer_that_talks_nonsense(listener: tuple[Path, subprocess.Popen[bytes]]) -> None:
    path, _ = listener
    for _ in range(3):
        rude = connect_unix(path)
        rude.sendall(os.urandom(100_000))
        rude.close()
    polite = connect(path)
    assert collect(polite.open("exec", {"argv": ["echo", "fine"]})).stdout == b"fine\n"
    polite.close()


def test_shutdown_answers_and_leaves_nothing(agent: Client) -> None:
    agent.exec("sh", "-c", "setsid sleep 1004 >/dev/null 2>&1 &")
    child = children.descendants(agent.process.pid)
    assert len(child) == 1
    assert agent.channel.call("shutdown", timeout=5) == {}
    assert agent.process.wait(10) == 0
    assert not alive(child[0])


def test_a_daemon_that_left_its_session_is_adopted_and_reaped(agent: Client) -> None:
    agent.exec("sh", "-c", "(setsid sleep 0.2 >/dev/null 2>&1 &) ; exit 0")
    until(lambda: not children.descendants(agent.process.pid))
    until(lambda: _zombies(agent.process.pid) == 0)


def test_ignores_sighup(agent: Client) -> None:
    os.kill(agent.process.pid, signal.SIGHUP)
    assert agent.exec("true").exit_code == 0


@pytest.mark.parametrize(
    "arguments", [["--fd"], ["--fd", "3"], ["--root", "/"], ["--fd", "3", "--root", "/", "--x", "y"]]
)
def test_bad_usage_is_told(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "usage:" in capsys.readouterr().err


def test_the_agent_imports_nothing_heavy() -> None:
    """Each of these costs a booting guest 50 to 300 ms under emulation."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import pyro_mcp.guest.boot.init\n"
        "heavy = {'subprocess', 'socket', 'inspect', 'dataclasses', 'logging', 'asyncio', 'traceback', 'tempfile',\n"
        "         'pathlib', 'shutil', 'argparse', 'concurrent.futures'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    source = str(Path(__file__).parents[3] / "src")
    run = subprocess.run([sys.executable, "-I", "-S", "-c", code, source], capture_output=True, check=True, text=True)
    assert run.stdout == "[]\n"


def _zombies(parent: int) -> int:
    count = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = Path(f"/proc/{name}/stat").read_text().rpartition(") ")[2].split()
            except OSError:
                continue
            count += fields[0] == "Z" and int(fields[1]) == parent
    return count
