"""Measure pyro on this machine: medians, with the raw equivalent measured in the same run.

    python benchmarks/bench.py [--runs 10] [--only NAME ...] [--json FILE]

Prints a table and one JSON document. A bound that is missed is printed as missed; nothing here is tuned to look met.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import answers
import boots
import egress
import mcp_server
import network
import services
import shells
import workspaces
from rig import PYRO, Bench, Row, ask, node_status, run, timed
from workspaces import Line

from pyro_mcp import Pyro
from pyro_mcp.environments.runtime import ensure_runtime
from pyro_mcp.environments.store import EnvironmentStore
from pyro_mcp.machines.driver import GuestRuntime, Image, WorkspaceMount
from pyro_mcp.machines.qemu.driver import qemu_version
from pyro_mcp.protocol.channel import Channel
from pyro_mcp.settings import Settings
from pyro_mcp.system.progress import silent

MIB = 1024 * 1024
BULK_MIB = 256


def exec_and_ping(bench: Bench) -> Iterator[Row]:
    with bench.guest() as machine:
        for _ in range(10):
            run(machine.channel, ["true"])
            machine.channel.ping()
        value = bench.median(lambda: timed(lambda: run(machine.channel, ["true"])), bench.runs * 3)
        ping = bench.median(machine.channel.ping, bench.runs * 10)
    raw = bench.median(lambda: timed(lambda: subprocess.run(["true"], check=True)), bench.runs * 3)
    yield Row("exec of `true` in a live guest, round trip", value * 1e3, "ms", 15, raw * 1e3, "subprocess on the host")
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
    with bench.spec() as spec:
        machine = bench.driver.launch(dataclasses.replace(spec, workspace=WorkspaceMount()), silent)
        try:
            yield from bulk_rows(bench, machine.channel)
        finally:
            machine.terminate()


def bulk_rows(bench: Bench, channel: Channel) -> Iterator[Row]:
    piece, size = os.urandom(MIB), BULK_MIB * MIB
    write = {"path": "big", "size": size}
    transfers: dict[str, tuple[float, Callable[[], object]]] = {
        "into a guest": (120, lambda: run(channel, ["sh", "-c", "cat > /dev/null"], iter([piece] * BULK_MIB))),
        "out of a guest": (130, lambda: run(channel, ["head", "-c", str(size), "/dev/zero"])),
        "into a guest as a file": (200, lambda: ask(channel, "file_write", write, iter([piece] * BULK_MIB))),
        "out of a guest as a file": (300, lambda: ask(channel, "file_read", {"path": "big", "max_bytes": size})),
    }
    for _ in range(5):
        run(channel, ["true"])
    idle = bench.median(lambda: timed(lambda: run(channel, ["true"])))
    raw = BULK_MIB / bench.median(host_pipe, 3)
    for name, (bound, transfer) in transfers.items():
        rate = BULK_MIB / bench.median(lambda: timed(transfer), max(3, bench.runs // 3))  # noqa: B023
        yield Row(f"{BULK_MIB} MiB {name}", rate, "MB/s", bound, raw, "the same through a pipe on the host", least=True)
        meanwhile = exec_during(channel, transfer)
        yield Row(f"exec meanwhile ({name}), against idle", meanwhile / idle, "x", 3, idle * 1e3, "idle exec, ms")


def exec_during(channel: Channel, transfer: Callable[[], object]) -> float:
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
        status = node_status(bench.settings.state_dir)
        node = rss_mib(status["pid"])
        guests = [pss_mib(machine["pid"]) for machine in status["machines"]]
        for vm in vms:
            pyro.delete_vm(vm.vm_id)
    yield Row("node, resident, 4 guests", node, "MB", 60)
    yield Row("an idle guest, proportional set size", statistics.median(guests), "MB")


def rss_mib(pid: int) -> float:
    return proc_kib(Path(f"/proc/{pid}/status"), "VmRSS:") / 1024


def pss_mib(pid: int) -> float:
    return proc_kib(Path(f"/proc/{pid}/smaps_rollup"), "Pss:") / 1024


def proc_kib(path: Path, key: str) -> int:
    return next(int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith(key))


def told(lines: Iterable[Line]) -> Iterator[Row]:
    for name, value, unit, bound, least, raw, raw_is in lines:
        yield Row(name, value, unit, bound, raw, raw_is, least)


def through_sdk(measure: Callable[[Pyro, int], Iterable[Line]]) -> Callable[[Bench], Iterator[Row]]:
    def rows(bench: Bench) -> Iterator[Row]:
        with Pyro(state_dir=bench.settings.state_dir) as pyro:
            yield from told(measure(pyro, bench.runs))

    return rows


def networks(bench: Bench) -> Iterator[Row]:
    yield from told(network.measure(bench.settings, bench.runtime, bench.runs))
    yield from told(egress.measure(bench.settings, max(3, bench.runs // 3)))


MEASURES = {
    "cold": boots.cold,
    "restore": boots.restore,
    "exec": exec_and_ping,
    "cli": command_line,
    "bulk": bulk,
    "memory": memory,
    "workspaces": through_sdk(workspaces.measure),
    "services": through_sdk(services.measure),
    "shells": through_sdk(shells.measure),
    "network": networks,
    "mcp": mcp_server.measure,
    "answers": answers.answers,
    "emulation": boots.emulation,
    "load": boots.under_load,
}


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
    # Only the measure that is about the pool has one; it would work beside the others.
    os.environ["PYRO_POOL_SIZE"] = "0"
    with tempfile.TemporaryDirectory(prefix="pyro-bench-state-") as name:
        bench = prepare(options.runs, Path(name))
        rows: list[Row] = []
        for key in options.only:
            print(f"measuring {key} ...", file=sys.stderr, flush=True)
            rows += MEASURES[key](bench)
        for state_dir in (Path(name), *bench.nodes):
            environ = {**os.environ, "PYRO_STATE_DIR": str(state_dir)}
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
