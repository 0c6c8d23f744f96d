"""Places to work in: one with the real agent on this host, and one whose agent says what a test wants."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pyro_mcp.engine.session import Session
from pyro_mcp.machines.driver import MachineSpec
from pyro_mcp.machines.host.driver import HostDriver
from pyro_mcp.model.size import MachineSize
from pyro_mcp.operations.call import Call
from pyro_mcp.protocol.channel import Channel, Stream
from pyro_mcp.protocol.pipe import Pipe
from pyro_mcp.system.progress import silent

WORKSPACE = "ws-0123456789ab"


@dataclass
class Lab:
    """A place, the directory that is its /workspace, and what has been noted of it."""

    place: Session
    root: Path
    notes: list[tuple[str, dict[str, Any]]]
    call: Call[Any] = field(default_factory=lambda: Call(None))

    def put(self, path: str, content: str | bytes = "", mode: int | None = None) -> Path:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.encode() if isinstance(content, str) else content)
        if mode is not None:
            target.chmod(mode)
        return target

    def snapshot(self) -> dict[str, tuple[int, bytes | None]]:
        """Everything in the tree: mode, and content of files."""
        return {
            str(path.relative_to(self.root)): (
                path.lstat().st_mode,
                path.read_bytes() if path.is_file() and not path.is_symlink() else None,
            )
            for path in sorted(self.root.rglob("*"))
        }

    def assert_becomes(self, expected: dict[str, tuple[int, bytes | None]]) -> None:
        """The tree is `expected` as soon as the agent has cleaned up after a request that was cut off."""
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            # What is staged may vanish while it is looked at.
            with contextlib.suppress(FileNotFoundError):
                if self.snapshot() == expected:
                    return
            time.sleep(0.01)
        assert self.snapshot() == expected


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    directory = tmp_path / "machine"
    directory.mkdir(mode=0o700)
    # An id of this run's own: whoever carries its mark is ended with it, in all of the host.
    machine = HostDriver().launch(
        MachineSpec(f"vm-{os.getpid():012x}", directory, None, None, MachineSize(1, 512, 0)), silent
    )
    notes: list[tuple[str, dict[str, Any]]] = []
    try:
        yield Lab(
            Session(WORKSPACE, machine, lambda kind, detail: notes.append((kind, detail))), directory / "root", notes
        )
    finally:
        machine.terminate()


class ScriptedMachine:
    """A machine whose agent is a function of the test."""

    capabilities = HostDriver.capabilities
    machine_id = "vm-0123456789ab"

    def __init__(self, channel: Channel) -> None:
        self.channel = channel

    def console_tail(self) -> str:
        return ""


Scripted = Callable[[Callable[[Stream], None]], Session]


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    """Makes a place whose agent answers every request with the given handler."""
    channels: list[Channel] = []

    def make(handler: Callable[[Stream], None]) -> Session:
        ours, theirs = socket.socketpair()
        agent = Channel(Pipe(theirs.detach()), initiator=False, hello={"role": "agent"}, handler=handler)
        channel = Channel(Pipe(ours.detach()), initiator=True, hello={"role": "node"})
        channels.extend((agent, channel))
        threading.Thread(target=agent.serve, daemon=True).start()
        channel.start(10)
        machine: Any = ScriptedMachine(channel)
        return Session(WORKSPACE, machine, lambda kind, detail: None)

    yield make
    for channel in channels:
        channel.close()
