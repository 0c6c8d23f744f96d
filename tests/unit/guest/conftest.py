"""The real agent as a child process on a socketpair, and a client that speaks to it as the node does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import pyro_mcp
from pyro_mcp.protocol.channel import Channel, ChannelClosed, Data, Stream, StreamResult
from pyro_mcp.protocol.pipe import Pipe

START = "import sys; sys.path.insert(0, sys.argv.pop(1)); from pyro_mcp.guest.main import main; sys.exit(main())"


@dataclass
class Outcome:
    result: dict[str, Any]
    stdout: bytes
    stderr: bytes

    @property
    def exit_code(self) -> int:
        return int(self.result["exit_code"])


class Client:
    """The node's side of one agent."""

    def __init__(self, root: Path) -> None:
        ours, theirs = socket.socketpair()
        source = str(Path(pyro_mcp.__path__[0]).parent)
        self.root = root
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", START, source, "--fd", str(theirs.fileno()), "--root", str(root)],
            pass_fds=[theirs.fileno()],
            start_new_session=True,
            stderr=subprocess.PIPE,
        )
        theirs.close()
        self.channel = Channel(Pipe(ours.detach()), initiator=True, hello={"role": "node"})
        self.hello = self.channel.start(20)

    def exec(self, *argv: str, stdin: bytes | None = None, **params: Any) -> Outcome:
        stream = self.channel.open("exec", {"argv": list(argv), "stdin": stdin is not None, **params})
        if stdin is not None:
            threading.Thread(target=_feed, args=(stream, stdin), daemon=True).start()
        return collect(stream)

    def close(self) -> bytes:
        """End the agent; what it wrote to its own standard error."""
        self.channel.close()
        assert self.process.stderr is not None
        try:
            _, said = self.process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        return said or b""


def _feed(stream: Stream, data: bytes) -> None:
    try:
        stream.send(data)
        stream.end()
    except ChannelClosed:
        pass  # The command ended before it had read all: allowed.


def collect(stream: Stream) -> Outcome:
    pieces: dict[int, list[bytes]] = {1: [], 2: []}
    for message in stream.messages():
        if isinstance(message, Data):
            pieces[message.tag].append(message.data)
        elif isinstance(message, StreamResult):
            return Outcome(message.value, b"".join(pieces[1]), b"".join(pieces[2]))
    raise AssertionError("no result")


def until(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Client]:
    """An agent, of which nothing may be left: no process, and no word of complaint."""
    client = Client(tmp_path)
    before = client.process.pid
    yield client
    said = client.close()
    assert said == b""
    assert not alive(before)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A workspace, with a secret beside it."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("canary")
    root = tmp_path / "root"
    root.mkdir()
    return root


@pytest.fixture
def guarded(root: Path) -> Iterator[Client]:
    """An agent at `root`, that may leave neither debris there nor a trace outside."""
    client = Client(root)
    yield client
    assert client.close() == b""
    assert not list(root.glob(".pyro-*"))
    assert (root.parent / "outside/secret").read_text() == "canary"
    assert os.listdir(root.parent / "outside") == ["secret"]


@pytest.fixture
def open_fds(agent: Client) -> Callable[[], int]:
    return lambda: len(os.listdir(f"/proc/{agent.process.pid}/fd"))
