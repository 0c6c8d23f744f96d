"""A virtual machine that is killed in the middle of a change: its next life shows all of the change or nothing."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pyro_mcp.machines.driver import MachineSpec, WorkspaceMount
from pyro_mcp.machines.qemu.command import DISK_BYTES
from pyro_mcp.machines.qemu.driver import QemuDriver, QemuMachine
from pyro_mcp.protocol.channel import ChannelClosed, Data, Event, StreamResult
from pyro_mcp.protocol.entries import Encoder, Entry
from pyro_mcp.system.progress import silent
from pyro_mcp.trees.seed import build_seed
from pyro_mcp.trees.source import DirectorySource

pytestmark = pytest.mark.guest

COUNT = 60
LIVES = 6


@pytest.fixture
def seed(tmp_path: Path) -> Path:
    """Half of what changes lies in the seed, so that the overlay copies it up or whites it out."""
    tree = tmp_path / "tree"
    for number in range(COUNT):
        (tree / f"d{number}").mkdir(parents=True)
        (tree / f"d{number}/f").write_text("0")
        (tree / f"d{number}/gone").write_text("0")
    image = tmp_path / "seed.ext4"
    build_seed(DirectorySource(tree), tree, image, device_bytes=DISK_BYTES)
    return image


def talk(machine: QemuMachine, verb: str, params: dict[str, Any], data: bytes = b"") -> bytes:
    stream = machine.channel.open(verb, params)
    stream.send(data)
    stream.end()
    output = bytearray()
    for message in stream.messages():
        if isinstance(message, Data):
            output += message.data
        elif isinstance(message, StreamResult):
            return bytes(output)
        else:
            assert isinstance(message, Event)
    raise AssertionError("no result")


def state(machine: QemuMachine) -> str:
    """Everything below /workspace: each name, its mode, and its content or target."""
    script = r'{ find . -mindepth 1 -printf "%p %y %m %l\n"; find . -type f -exec grep -H "" {} +; } | sort'
    return talk(machine, "exec", {"argv": ["sh", "-ec", script], "timeout_seconds": 60}).decode()


def patch(machine: QemuMachine, version: int) -> None:
    """Writes, links, moves, modes and deletions, of which `version` says which way."""
    text = str(version).encode()
    there, gone = ("f", "g") if version % 2 else ("g", "f")
    operations: list[dict[str, Any]] = []
    for number in range(COUNT):
        at = f"d{number}"
        kind = number % 5
        if kind == 0:
            operations.append({"op": "write", "path": f"{at}/f", "size": len(text)})
        elif kind == 1:
            operations.append({"op": "rename", "path": f"{at}/{there}", "to": f"{at}/{gone}"})
        elif kind == 2:
            operations.append({"op": "mode", "path": f"{at}/f", "mode": 0o700 + version % 8})
        elif kind == 3:
            operations.append({"op": "link", "path": f"{at}/l", "target": f"to{version}"})
        elif version % 2:
            operations.append({"op": "delete", "path": f"{at}/gone"})
        else:
            operations.append({"op": "write", "path": f"{at}/gone", "size": len(text)})
    data = text * sum(operation["op"] == "write" for operation in operations)
    talk(machine, "tree_apply", {"operations": operations}, data)


def push(machine: QemuMachine, version: int) -> None:
    """New content for all files, in directories that are there and new ones."""
    text = str(version).encode()
    out = bytearray()
    encoder = Encoder(out.extend)
    for number in range(COUNT):
        encoder.entry(Entry(f"d{number}", "directory", 0o755))
        encoder.entry(Entry(f"d{number}/p", "file", 0o644, size=len(text)))
        encoder.data(text)
        encoder.entry(Entry(f"d{number}/n{version}", "directory", 0o755))
        encoder.entry(Entry(f"d{number}/n{version}/x", "file", 0o644, size=len(text)))
        encoder.data(text)
    encoder.finish()
    talk(machine, "tree_unpack", {"dest": "."}, bytes(out))


@pytest.mark.parametrize("change", [patch, push])
def test_a_killed_machine_shows_all_or_nothing(
    driver: QemuDriver, new_spec: Callable[..., MachineSpec], seed: Path, change: Callable[[QemuMachine, int], None]
) -> None:
    spec = replace(new_spec(), seed=seed, workspace=WorkspaceMount())
    version = 1
    machine = driver.launch(spec, silent)
    try:
        seconds = _timed(machine, change, version)
        chance = random.Random(1)
        for life in range(LIVES):
            before = state(machine)
            version += 1
            # From somewhere in its first part to shortly after its end, with luck never twice at the same step.
            killer = threading.Timer(seconds * (life + chance.random()) * 1.1 / LIVES, _kill, (machine,))
            killer.start()
            acknowledged = True
            try:
                change(machine, version)
            except ChannelClosed:
                acknowledged = False
            killer.join()
            machine.terminate()
            machine = driver.launch(spec, silent)
            after = state(machine)
            assert ".pyro" not in after
            if after == before:
                assert not acknowledged
                change(machine, version)
            else:
                _check_whole(after, change, version)
            assert ".pyro" not in state(machine)
            _check_whole(state(machine), change, version)
    finally:
        machine.terminate()


def _check_whole(found: str, change: Callable[[QemuMachine, int], None], version: int) -> None:
    """Every one of the changes of `version` is there."""
    lines = found.splitlines()
    if change is push:
        assert sum(line.endswith(f"/n{version}/x:{version}") for line in lines) == COUNT
        assert sum(line.endswith(f"/p:{version}") for line in lines) == COUNT
        return
    each = COUNT // 5
    mode = f"{0o700 + version % 8:o}"
    moved = "g" if version % 2 else "f"
    numbers = {kind: range(kind, COUNT, 5) for kind in range(5)}
    assert sum(f"./d{number}/f:{version}" in lines for number in numbers[0]) == each
    assert sum(f"./d{number}/{moved}:0" in lines for number in numbers[1]) == each
    assert sum(f"./d{number}/f f {mode} " in lines for number in numbers[2]) == each
    assert sum(f"./d{number}/l l 777 to{version}" in line for number in numbers[3] for line in lines) == each
    gone = sum(any(line.startswith(f"./d{number}/gone ") for line in lines) for number in numbers[4])
    assert gone == (0 if version % 2 else each)


def _timed(machine: QemuMachine, change: Callable[[QemuMachine, int], None], version: int) -> float:
    begun = time.monotonic()
    change(machine, version)
    return time.monotonic() - begun


def _kill(machine: QemuMachine) -> None:
    os.kill(machine.pid, signal.SIGKILL)
