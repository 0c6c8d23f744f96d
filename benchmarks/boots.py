"""How long a guest takes to be there: cold, against QEMU started by hand, restored, and with all cores busy."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rig import Bench, Row, interleave, node_status, run, timed

from pyro_mcp import Pyro
from pyro_mcp.machines.qemu.command import BINARY, kernel_parameters
from pyro_mcp.machines.qemu.driver import QemuMachine
from pyro_mcp.protocol.channel import Channel
from pyro_mcp.protocol.pipe import Pipe


def cold(bench: Bench) -> Iterator[Row]:
    def pyro() -> float:
        with bench.spec() as spec:
            begun = time.perf_counter()
            machine = bench.driver.boot(spec)
            elapsed = time.perf_counter() - begun
            machine.terminate()
            return elapsed

    def bare() -> float:
        with bench.spec() as spec:
            return bare_boot(bench, spec.directory)

    ours, theirs = interleave(pyro, bare, bench.runs)
    yield Row(
        "cold boot to agent ready",
        ours * 1e3,
        "ms",
        theirs * 1.3e3,
        theirs * 1e3,
        "bare QEMU, same kernel and initramfs",
    )


def bare_boot(bench: Bench, directory: Path) -> float:
    """Seconds from starting a hand-written QEMU until the agent says hello."""
    path = directory / "agent"
    scratch = directory / "scratch"
    with scratch.open("wb") as file:
        os.truncate(file.fileno(), 1 << 30)
    argv = [
        *(BINARY, "-M", "microvm,acpi=on,rtc=on", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", "1024"),
        *("-nodefaults", "-no-user-config", "-nographic", "-no-reboot"),
        *("-kernel", str(bench.runtime.kernel), "-initrd", str(bench.runtime.initramfs)),
        *("-append", kernel_parameters("tcg")),
        *("-device", "virtio-serial-device", "-chardev", f"socket,id=agent,path={path},server=on,wait=off"),
        *("-device", "virtserialport,chardev=agent,name=pyro.agent"),
    ]
    images = {
        "runtime": bench.runtime.image,
        "environment": bench.environment.path,
        "seed": scratch,
        "scratch": scratch,
    }
    for name, image in images.items():
        argv += ["-drive", f"if=none,id={name},file={image},format=raw,readonly=on"]
        argv += ["-device", f"virtio-blk-device,drive={name},serial={name}"]
    begun = time.perf_counter()
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
    try:
        client = socket.socket(socket.AF_UNIX)
        while True:
            with contextlib.suppress(OSError):
                client.connect(str(path))
                break
            time.sleep(0.001)
        channel = Channel(Pipe(client.detach()), initiator=True, hello={"role": "bench"})
        channel.start(120)
        elapsed = time.perf_counter() - begun
        channel.close()
        return elapsed
    finally:
        process.kill()
        process.wait()


def restore(bench: Bench) -> Iterator[Row]:
    cold = bench.median(lambda: cold_once(bench), runs=3)
    miss, hit = bench.median(run_once(bench, 0), bench.runs * 2), bench.median(run_once(bench, 1), bench.runs * 2)
    name = "restore to the result of `true`, SDK, deletion included"
    yield Row(name, miss * 1e3, "ms", 300, cold * 1e3, "cold boot")
    yield Row("the same, as a share of a cold boot", miss / cold, "x", 0.1)
    yield Row("the same with a machine restored ahead", hit * 1e3, "ms", 120, miss * 1e3, "without")


def run_once(bench: Bench, pool_size: int) -> Callable[[], float]:
    """Run `true` in a machine of its own, on a node with a pool of this size, which is full each time; its seconds."""
    state_dir = bench.settings.state_dir / f"pool-{pool_size}"
    before, os.environ["PYRO_POOL_SIZE"] = os.environ["PYRO_POOL_SIZE"], str(pool_size)
    pyro = Pyro(state_dir=state_dir)
    os.environ["PYRO_POOL_SIZE"] = before
    pyro.run_in_vm("debian:12", command=["true"])
    assert node_status(state_dir)["pool_size"] == pool_size
    bench.nodes.append(state_dir)

    def once() -> float:
        while pool_size and not node_status(state_dir)["pool"]:
            time.sleep(0.05)
        return timed(lambda: pyro.run_in_vm("debian:12", command=["true"]))

    return once


def cold_once(bench: Bench) -> float:
    with bench.spec() as spec:
        begun = time.perf_counter()
        machine = bench.driver.boot(spec)
        elapsed = time.perf_counter() - begun
        machine.terminate()
        return elapsed


EXECS = 400


def emulation(bench: Bench) -> Iterator[Row]:
    """What many commands cost a QEMU that emulates: a translation for each would show as time and as memory."""
    with bench.guest() as machine:
        for _ in range(20):
            run(machine.channel, ["true"])
        few = translated(machine)
    with bench.guest() as machine:
        for _ in range(20):
            run(machine.channel, ["git", "--version"])
        git = bench.median(lambda: timed(lambda: run(machine.channel, ["git", "--version"])), bench.runs * 3)
    with bench.guest() as machine:
        for _ in range(20):
            run(machine.channel, ["true"])
        size = resident_mib(machine.pid)
        for _ in range(EXECS):
            run(machine.channel, ["true"])
        grown, more = resident_mib(machine.pid) - size, translated(machine) - few
    yield Row("exec of `git --version`, round trip", git * 1e3, "ms", 22)
    yield Row(f"QEMU's resident growth over {EXECS} execs of `true`", grown, "MB", 40)
    yield Row("new translation blocks per exec of `true`", more / EXECS, "", 50)


def resident_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


def translated(machine: QemuMachine) -> int:
    """How many blocks of its guest's code a QEMU has translated; ends the use of the machine, whose node watches its
    monitor as long as the channel is open."""
    machine.channel.close("its emulator is looked at")
    monitor = machine._process.connect_monitor()
    try:
        told = monitor.execute("human-monitor-command", **{"command-line": "info jit"})
    finally:
        monitor.close()
    return next(int(line.split()[2]) for line in told.splitlines() if line.startswith("TB count"))


def under_load(bench: Bench) -> Iterator[Row]:
    """Twenty cold boots in a row with both cores busy; all must succeed."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    succeeded = 0
    try:
        for _ in range(20):
            with contextlib.suppress(Exception):
                cold_once(bench)
                succeeded += 1
    finally:
        for process in busy:
            process.kill()
            process.wait()
    yield Row("cold boots that succeed of 20, all cores busy", succeeded, "", 20, least=True)
