"""Measures of published ports: each yields (name, value, unit, bound, least?, raw, what raw is)."""

from __future__ import annotations

import contextlib
import http.client
import shlex
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from pyro_mcp.environments.store import EnvironmentStore
from pyro_mcp.machines.driver import GuestRuntime, Image, MachineSpec, NetworkLink
from pyro_mcp.machines.qemu.driver import QemuDriver, QemuMachine
from pyro_mcp.model.size import MachineSize
from pyro_mcp.network.publish import Listener, Publisher
from pyro_mcp.protocol.channel import Event, RemoteError, Stream
from pyro_mcp.settings import Settings
from pyro_mcp.system.progress import silent

Line = tuple[str, float, str, float | None, bool, float | None, str]

HTTP_PORT = 8000
TRANSFER_PORT = 8001
REQUESTS = 30
"""For each run."""
TRANSFER_BYTES = 100 * 1024 * 1024
SERVE = "-m http.server --protocol HTTP/1.1 --bind 127.0.0.1"
TRANSFER = f"""
import contextlib, socket
listener = socket.create_server(("127.0.0.1", {TRANSFER_PORT}))
piece, space = bytes(1 << 18), bytearray(1 << 18)
while True:
    with contextlib.suppress(ConnectionError), listener.accept()[0] as peer:
        if peer.recv(1) == b"d":
            for _ in range({TRANSFER_BYTES} // len(piece)):
                peer.sendall(piece)
        else:
            total = 0
            while count := peer.recv_into(space):
                total += count
            peer.sendall(str(total).encode())
"""


def measure(settings: Settings, runtime: GuestRuntime, runs: int) -> Iterator[Line]:
    """Every measure of issue 4 about the network that this version has."""
    with python_guest(settings, runtime) as machine, contextlib.closing(Publisher()) as publisher:
        serve_in(machine, f"cd /tmp && echo hello > small.txt && exec python3 {SERVE} {HTTP_PORT}", HTTP_PORT)
        serve_in(machine, f"exec python3 -c {shlex.quote(TRANSFER)}", TRANSFER_PORT)
        yield from requests(publish(publisher, machine, HTTP_PORT), runs)
        yield from transfers(publish(publisher, machine, TRANSFER_PORT), max(3, runs // 3))


@contextlib.contextmanager
def python_guest(settings: Settings, runtime: GuestRuntime, link: NetworkLink | None = None) -> Iterator[QemuMachine]:
    """A guest of an environment with Python."""
    found = EnvironmentStore(settings).ensure("debian:12-build", silent)
    with tempfile.TemporaryDirectory(prefix="pyro-bench-", dir=settings.state_dir) as name:
        image = Image(found.digest, found.path)
        spec = MachineSpec(
            f"vm-{uuid.uuid4().hex[:12]}", Path(name), image, runtime, MachineSize(1, 1024, 8192), network=link
        )
        machine = QemuDriver(settings.cache_dir, accelerator="tcg").launch(spec, silent)
        try:
            yield machine
        finally:
            machine.terminate()


def connect(machine: QemuMachine, port: int) -> Stream:
    return machine.channel.open("tcp_connect", {"host": "localhost", "port": port})


def publish(publisher: Publisher, machine: QemuMachine, port: int) -> Listener:
    return publisher.publish(lambda: connect(machine, port))


def serve_in(machine: QemuMachine, line: str, port: int) -> None:
    """Start a server in the guest and wait until it listens."""
    argv = ["sh", "-c", f"setsid sh -c {shlex.quote(line)} > /dev/null 2>&1 < /dev/null &"]
    machine.channel.call("exec", {"argv": argv}, timeout=60)
    while True:
        stream = connect(machine, port)
        try:
            assert isinstance(stream.receive(30), Event)
            return
        except RemoteError:
            time.sleep(0.1)
        finally:
            stream.cancel()
            stream.leave()


def requests(listener: Listener, runs: int) -> Iterator[Line]:
    value = median_request(listener.port, runs * REQUESTS)
    with host_server() as port:
        raw = median_request(port, runs * REQUESTS)
    name = "published port: HTTP request to a server in the guest, keep-alive, p50"
    yield name, value * 1e3, "ms", 15, False, raw * 1e3, "the same server on the host, which waits for delayed ACKs"


@contextlib.contextmanager
def host_server() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="pyro-bench-www-") as name:
        (Path(name) / "small.txt").write_text("hello\n")
        server = subprocess.Popen(
            [sys.executable, *SERVE.split(), str(port)], cwd=name, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            while True:
                with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), 10):
                    break
                time.sleep(0.05)
            yield port
        finally:
            server.kill()
            server.wait()


def median_request(port: int, count: int) -> float:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    times = []
    for _ in range(count):
        begun = time.perf_counter()
        connection.request("GET", "/small.txt")
        assert connection.getresponse().read() == b"hello\n"
        times.append(time.perf_counter() - begun)
    connection.close()
    return statistics.median(times)


def transfers(listener: Listener, runs: int) -> Iterator[Line]:
    address = (listener.host, listener.port)
    megabytes = TRANSFER_BYTES / 1e6

    def download() -> float:
        with socket.create_connection(address, 60) as client:
            begun = time.perf_counter()
            client.sendall(b"d")
            space, total = bytearray(1 << 18), 0
            while count := client.recv_into(space):
                total += count
            assert total == TRANSFER_BYTES
            return time.perf_counter() - begun

    def upload() -> float:
        with socket.create_connection(address, 60) as client:
            begun = time.perf_counter()
            client.sendall(b"u")
            for _ in range(100):
                client.sendall(bytes(TRANSFER_BYTES // 100))
            client.shutdown(socket.SHUT_WR)
            assert client.recv(100) == str(TRANSFER_BYTES).encode()
            return time.perf_counter() - begun

    for name, once in (("published port: 100 MiB out of the guest", download), ("the same, into the guest", upload)):
        yield name, megabytes / statistics.median(once() for _ in range(runs)), "MB/s", None, True, None, ""
