"""The measure of egress: 100 MB from a server in a network namespace of this host, through the policy, into a guest.

`python egress.py SETTINGS_JSON RUNS` is the part that runs on the host that is connected to that namespace alone; it
prints the seconds of each download, into a guest and by the same program on the host.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/surface/support"))

from internet import BIG, WEB, internet, why_not
from network import python_guest

from pyro_mcp.machines.driver import NetworkLink
from pyro_mcp.machines.qemu.driver import QemuMachine
from pyro_mcp.network.egress import Egress
from pyro_mcp.network.policy import Policy
from pyro_mcp.network.record import Ledger
from pyro_mcp.network.resolve import Resolver
from pyro_mcp.settings import Settings

Line = tuple[str, float, str, float | None, bool, float | None, str]

DOWNLOAD = f"""
import socket
with socket.create_connection(("web.test", 80)) as server:
    server.sendall(b"GET /big HTTP/1.0\\r\\nHost: web.test\\r\\n\\r\\n")
    space, total = bytearray(1 << 18), 0
    while count := server.recv_into(space):
        total += count
assert total > {BIG}, total
"""


def measure(settings: Settings, runs: int) -> Iterator[Line]:
    """MB/s of the download, and of the same without a guest."""
    if why_not() is not None:
        return
    with internet() as host:
        values = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
        command = [*host.prefix, sys.executable, __file__, json.dumps(values, default=str), str(runs)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=900)
    seconds = json.loads(done.stdout)
    guest, raw = (BIG / 1e6 / statistics.median(seconds[place]) for place in ("guest", "host"))
    name = "egress: download of 100 MB from a server in a namespace of this host"
    yield name, guest, "MB/s", 20, True, raw, "the same program on the host"


def main(settings: Settings, runs: int) -> dict[str, list[float]]:
    """Seconds per download."""
    from pyro_mcp.environments.runtime import ensure_runtime
    from pyro_mcp.machines.driver import GuestRuntime
    from pyro_mcp.system.progress import silent

    made = ensure_runtime(settings, silent)
    runtime = GuestRuntime(made.digest, made.kernel, made.initramfs, made.image)
    egress = Egress(Policy.read("egress", ["web.test"]), Ledger("bench", None), Resolver())
    with python_guest(settings, runtime, NetworkLink(egress.handle)) as machine:
        in_guest(machine)
        return {
            "guest": [in_guest(machine) for _ in range(runs)],
            "host": [on_host() for _ in range(runs)],
        }


def in_guest(machine: QemuMachine) -> float:
    """With the start of Python in the guest, which is timed apart and taken off."""
    return timed(machine, DOWNLOAD) - timed(machine, "import socket")


def timed(machine: QemuMachine, program: str) -> float:
    begun = time.perf_counter()
    done = machine.channel.call("exec", {"argv": ["python3", "-c", program]}, timeout=300)
    assert done["exit_code"] == 0, done
    return time.perf_counter() - begun


def on_host() -> float:
    program = DOWNLOAD.replace("web.test", WEB)
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True)
    seconds = time.perf_counter() - begun
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import socket"], check=True)
    return seconds - (time.perf_counter() - begun)


if __name__ == "__main__":
    print(json.dumps(main(Settings.load({}, **json.loads(sys.argv[1])), int(sys.argv[2]))))
