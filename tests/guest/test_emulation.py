"""What emulation needs so that guests keep time and QEMU keeps its size: parameters that a later change may lose."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyro_mcp.engine.commands import run as exec_module
from pyro_mcp.errors import MachineFailed
from pyro_mcp.machines.driver import MachineSpec
from pyro_mcp.machines.qemu import command
from pyro_mcp.machines.qemu.driver import CLOCK_TRIES, QemuDriver, QemuMachine
from pyro_mcp.operations.call import Call
from pyro_mcp.protocol.channel import Data, StreamResult
from pyro_mcp.system.progress import silent

pytestmark = pytest.mark.guest
Launch = Callable[..., QemuMachine]

SOURCE = "/sys/devices/system/clocksource/clocksource0/current_clocksource"


def run(machine: QemuMachine, *argv: str) -> str:
    """What a command printed in the guest; it must succeed."""
    stream = machine.channel.open("exec", {"argv": list(argv), "env": {}, "timeout_seconds": 300, "stdin": False})
    output = bytearray()
    for message in stream.messages():
        if isinstance(message, Data):
            output += message.data
        elif isinstance(message, StreamResult):
            assert message.value["exit_code"] == 0, output
    return output.decode().strip()


@pytest.fixture
def busy_host() -> Iterator[None]:
    """Two programs for each core that take all they get."""
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 1))]
    yield
    for hog in hogs:
        hog.kill()
        hog.wait()


@pytest.mark.parametrize("vcpu_count", [1, 2, 3])
def test_a_guest_that_boots_on_a_busy_host_trusts_its_exact_clock(
    vcpu_count: int, driver: QemuDriver, new_spec: Callable[..., MachineSpec], busy_host: None
) -> None:
    machine = driver.boot(new_spec(vcpu_count=vcpu_count))
    try:
        assert run(machine, "cat", SOURCE) in ("tsc", "tsc-early")
        said = run(machine, "dmesg")
        assert not re.search(r"(?i)unstable|unsynchronized|skew|failed to get a good estimate", said), said
    finally:
        machine.terminate()


def test_a_guest_with_a_clock_that_loses_time_is_never_frozen(
    tmp_path: Path, new_spec: Callable[..., MachineSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    def distrusted(accelerator: str) -> str:
        return f"{command_line(accelerator)} tsc=unstable"

    command_line, booted = command.kernel_parameters, []
    monkeypatch.setattr(command, "kernel_parameters", distrusted)
    driver = QemuDriver(tmp_path / "cache", accelerator="tcg")
    spawn = driver._spawn
    monkeypatch.setattr(driver, "_spawn", lambda *args, **kind: booted.append(args) or spawn(*args, **kind))
    with pytest.raises(MachineFailed, match="its clock is refined-jiffies, which loses time"):
        driver.launch(new_spec(), silent)
    assert len(booted) == CLOCK_TRIES
    assert [path for path in (tmp_path / "cache" / "templates").iterdir() if path.suffix != ".lock"] == []


BUSY = "for n in 1 2; do (while :; do :; done) & done; sleep 30; kill $!; kill %1; wait"


def behind(machine: QemuMachine) -> tuple[float, float]:
    """How many seconds the guest's clock is behind this one: at least, and at most."""
    said: list[bytes] = []
    before = time.time()
    exec_module.execute(Call(None), machine, "date +%s.%N", lambda _, data: said.append(data), timeout_seconds=60)
    return before - float(b"".join(said)), time.time() - float(b"".join(said))


@pytest.mark.parametrize("vcpu_count", [1, 2])
def test_a_guest_stays_within_a_second_of_the_host_under_full_load(
    vcpu_count: int, launch: Launch, busy_host: None
) -> None:
    machine = launch(vcpu_count=vcpu_count)
    busy = machine.channel.open("exec", {"argv": ["sh", "-c", BUSY], "timeout_seconds": 600})
    for _ in range(10):
        least, most = behind(machine)
        assert least < 1
        assert most > -1
        with contextlib.suppress(TimeoutError):
            busy.receive(3)
    busy.cancel()


def test_time_that_a_guest_has_missed_is_made_up_with_its_next_command(launch: Launch) -> None:
    """The host has slept for an hour, as far as the guest can tell."""
    machine = launch()
    ahead = time.time_ns() + 3600 * 10**9
    stream = machine.channel.open("exec", {"argv": ["true"], "time_ns": ahead})
    assert [message for message in stream.messages() if isinstance(message, StreamResult)]
    least, most = behind(machine)
    assert least < -3590
    assert most > -3610


HOGS = "for n in 1 2 3; do chrt -f 50 sh -c 'trap : TERM; while :; do :; done' & done; wait; sleep 600"
"""They leave the agent the twentieth that the kernel keeps from them."""


def test_a_command_that_takes_the_whole_guest_is_ended_by_the_hosts_clock_and_told(
    launch: Launch, busy_host: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exec_module, "guest_limit", lambda seconds: 86400.0)
    machine = launch()
    done = exec_module.execute(Call(None), machine, HOGS, lambda tag, data: None, timeout_seconds=5)
    assert (done["exit_code"], done["timed_out"]) == (124, True)
    assert run(machine, "echo", "alive") == "alive"


def translations(machine: QemuMachine) -> int:
    """How many blocks of the guest's code this QEMU has translated and kept. Its node watches the one monitor that it
    has as long as the channel is open, so this is a machine's end."""
    machine.channel.close("its emulator is looked at")
    monitor = machine._process.connect_monitor()
    try:
        told = monitor.execute("human-monitor-command", **{"command-line": "info jit"})
    finally:
        monitor.close()
    return int(re.search(r"^TB count +(\d+)", told, re.MULTILINE)[1])  # type: ignore[index]


@pytest.mark.parametrize("argv", [["true"], ["git", "--version"], ["sh", "-c", "true; true"]])
def test_a_program_that_ran_before_is_not_translated_again(argv: list[str], launch: Launch) -> None:
    kept = []
    for times in (20, 120):
        machine = launch()
        for _ in range(times):
            run(machine, *argv)
        kept.append(translations(machine))
    assert (kept[1] - kept[0]) / 100 <= 50


def beside_memory_mib(machine: QemuMachine) -> float:
    """What QEMU holds of the host's memory besides the guest's own."""
    kib, own = 0, False
    for line in Path(f"/proc/{machine.pid}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            own = line.endswith("/ram")
        elif line.startswith("Rss:") and not own:
            kib += int(line.split()[1])
    return kib / 1024


AGAIN = """
echo 2 > /proc/sys/kernel/randomize_va_space
for i in $(seq 120); do git --version; perl -e 1; done > /dev/null
"""


@pytest.mark.slow
def test_a_guest_cannot_make_the_emulator_larger_than_admission_counts(launch: Launch) -> None:
    """Root switches randomisation on again, so that every program is translated at every start."""
    machine = launch()
    before = beside_memory_mib(machine)
    run(machine, "sh", "-c", AGAIN)
    # QEMU 7 fills its cache with them; later ones find what they have translated.
    assert before < beside_memory_mib(machine) <= machine.capabilities.overhead_mib
