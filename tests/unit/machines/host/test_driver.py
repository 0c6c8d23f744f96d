"""The host driver: born, adopted by a later node, and gone without a trace."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyro_mcp.machines.driver import MachineSpec
from pyro_mcp.machines.host.driver import IDENTITY, HostDriver, HostMachine
from pyro_mcp.machines.host.leftovers import _tagged
from pyro_mcp.machines.watched import WatchedProcess, held
from pyro_mcp.model.size import MachineSize
from pyro_mcp.protocol.channel import ChannelClosed, Data, StreamResult
from pyro_mcp.system.progress import silent

ID = f"vm-{os.getpid():012x}"
"""Of this run alone: who carries its mark is looked for, and ended, in all of the host."""


def shell(machine: HostMachine, script: str) -> tuple[dict[str, Any], bytes]:
    stream = machine.channel.open("exec", {"argv": ["/bin/sh", "-c", script]})
    output = b""
    for message in stream.messages():
        if isinstance(message, Data):
            output += message.data
        elif isinstance(message, StreamResult):
            return message.value, output
    raise AssertionError("no result")


def marked() -> list[int]:
    mark = f"PYRO_MACHINE={ID}".encode()
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and _tagged(int(name), mark)]


@pytest.fixture
def spec(tmp_path: Path) -> MachineSpec:
    # Longer than the kernel allows for a socket's path.
    directory = tmp_path / ("d" * 120)
    directory.mkdir(mode=0o700)
    return MachineSpec(ID, directory, None, None, MachineSize(1, 512, 0))


@pytest.fixture
def machine(spec: MachineSpec) -> Iterator[HostMachine]:
    machine = HostDriver().launch(spec, silent)
    yield machine
    machine.terminate()
    assert marked() == []


def test_runs_commands_in_its_own_directory(machine: HostMachine, spec: MachineSpec) -> None:
    result, output = shell(machine, "pwd; echo $HOME")
    assert result["exit_code"] == 0
    assert output.decode().splitlines() == [str(spec.directory / "root")] * 2


def test_hides_the_callers_environment(spec: MachineSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY_TOKEN", "s3cret")
    machine = HostDriver().launch(spec, silent)
    try:
        assert b"s3cret" not in shell(machine, "env; cat /proc/$PPID/environ")[1]
    finally:
        machine.terminate()


def test_terminate_ends_what_commands_left_behind(machine: HostMachine) -> None:
    shell(machine, "sleep 1000 & setsid sleep 1001 & (setsid env -i sleep 1002.5 &) & sleep 0.2")
    before = [line for line in _commands() if "sleep 1002.5" in line]
    assert before
    machine.terminate()
    assert not machine.alive()
    assert marked() == []
    assert not [line for line in _commands() if "sleep 1002.5" in line]


def test_leftovers_die_when_the_agent_is_killed(machine: HostMachine) -> None:
    shell(machine, "sleep 1000 & setsid sleep 1001 & sleep 0.1")
    gone = threading.Event()
    machine.on_exit(gone.set)
    os.kill(machine.pid, signal.SIGKILL)
    assert gone.wait(10)
    assert marked() == []
    with pytest.raises(ChannelClosed):
        machine.channel.call("exec", {"argv": ["true"]}, timeout=5)


def test_a_later_node_adopts_the_agent(machine: HostMachine, spec: MachineSpec) -> None:
    shell(machine, "echo kept > note")
    machine.channel.close("the node dies")
    adopted = HostDriver().adopt(ID, spec.directory)
    assert adopted is not None
    assert adopted.pid == machine.pid
    assert shell(adopted, "cat note")[1] == b"kept\n"


def test_a_lost_node_ends_commands_under_way(machine: HostMachine, spec: MachineSpec) -> None:
    machine.channel.open("exec", {"argv": ["sleep", "1003"]})
    _until(lambda: any("sleep 1003" in line for line in _commands()))
    machine.channel.close("the node dies")
    _until(lambda: not any("sleep 1003" in line for line in _commands()))


def test_adopts_nothing_when_the_agent_is_gone(machine: HostMachine, spec: MachineSpec) -> None:
    machine.terminate()
    assert HostDriver().adopt(ID, spec.directory) is None


def test_ends_an_agent_that_was_never_noted_down(machine: HostMachine, spec: MachineSpec) -> None:
    machine.channel.close("the node dies")
    (spec.directory / IDENTITY).unlink()
    assert HostDriver().adopt(ID, spec.directory) is None
    _until(lambda: not machine.alive())


def _commands() -> list[str]:
    lines = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                lines.append(Path(f"/proc/{name}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
            except OSError:
                continue
    return lines


def _until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_an_agent_that_cannot_be_held_is_not_left_running(spec: MachineSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "pidfd_open", refuse)
    with pytest.raises(OSError, match="Too many"):
        HostDriver().launch(spec, silent)
    assert marked() == []


def test_nobody_waits_for_ever_for_a_process_whose_end_met_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    told, seen = threading.Event(), []
    monkeypatch.setattr(threading, "excepthook", lambda hooked: seen.append(hooked.exc_type))
    child = subprocess.Popen(["sleep", "60"])
    found = held(child)
    assert found is not None
    watched = WatchedProcess(*found, child, at_end=fail)
    watched.on_exit(told.set)
    watcher = next(thread for thread in threading.enumerate() if thread.name == f"watch-{child.pid}")
    watched.signal(signal.SIGKILL)
    assert watched.wait(5)
    assert told.wait(5)
    watcher.join(5)
    assert seen == [OSError]
