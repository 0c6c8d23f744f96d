"""Published ports of a real guest: its own Python serves HTTP on its loopback, and it has no network card."""

from __future__ import annotations

import hashlib
import http.client
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pyro_mcp.environments.store import EnvironmentStore
from pyro_mcp.machines.driver import GuestRuntime, Image, MachineSpec
from pyro_mcp.machines.qemu.driver import QemuDriver, QemuMachine
from pyro_mcp.model.size import MachineSize
from pyro_mcp.network.publish import Listener, Publisher
from pyro_mcp.protocol.channel import Data, Event, RemoteError, Stream, StreamResult
from pyro_mcp.settings import Settings
from pyro_mcp.system.progress import silent

pytestmark = pytest.mark.guest
PORT = 8000
BIG = 24 * 1024 * 1024
START = f"""
set -e
mkdir /srv/www; cd /srv/www;  echo small > small.txt; head -c {BIG} /dev/urandom > big; sha256sum < big | cut -c1-64
setsid python3 -m http.server {PORT} --bind 127.0.0.1 > /dev/null 2>&1 < /dev/null &
"""


@pytest.fixture(scope="module")
def machine(
    driver: QemuDriver, runtime: GuestRuntime, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[QemuMachine]:
    image = EnvironmentStore(Settings.load()).ensure("debian:12-build", silent)
    directory = tmp_path_factory.mktemp("published")
    directory.chmod(0o700)
    spec = MachineSpec(
        f"vm-{uuid.uuid4().hex[:12]}",
        Path(directory),
        Image(image.digest, image.path),
        runtime,
        MachineSize(1, 512, 1024),
    )
    born = driver.launch(spec, silent)
    yield born
    born.terminate()


def opener(machine: QemuMachine, port: int) -> Callable[[], Stream]:
    return lambda: machine.channel.open("tcp_connect", {"host": "localhost", "port": port, "timeout_seconds": 10})


def await_server(machine: QemuMachine, port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        stream = opener(machine, port)()
        try:
            if isinstance(stream.receive(20), Event):
                return
        except RemoteError as error:
            if error.payload["code"] != "not_found" or time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        finally:
            stream.cancel()
            stream.leave()


@pytest.fixture(scope="module")
def digest(machine: QemuMachine) -> str:
    """That of the large file which the guest's server offers."""
    stream = machine.channel.open("exec", {"argv": ["sh", "-c", START], "timeout_seconds": 60})
    output = b""
    for message in stream.messages():
        if isinstance(message, Data):
            output += message.data
        elif isinstance(message, StreamResult):
            assert message.value["exit_code"] == 0, output
    await_server(machine, PORT)
    return output.decode().strip()


@pytest.fixture
def published(machine: QemuMachine, digest: str) -> Iterator[Listener]:
    publisher = Publisher()
    yield publisher.publish(opener(machine, PORT))
    publisher.close()
    deadline = time.monotonic() + 60
    while machine.channel._streams:
        assert time.monotonic() < deadline, "streams are left"
        time.sleep(0.01)


def get(listener: Listener, path: str) -> bytes:
    connection = http.client.HTTPConnection(listener.host, listener.port, timeout=60)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        assert response.status == 200
        return response.read()
    finally:
        connection.close()


def trickle(client: socket.socket) -> None:
    """Read slowly, to the end."""
    while client.recv(4096):
        time.sleep(0.01)


def test_a_browser_of_the_host_reaches_the_guests_server(published: Listener) -> None:
    assert get(published, "/small.txt") == b"small\n"
    assert b"small.txt" in get(published, "/")


def test_a_large_file_comes_whole_while_others_are_served(published: Listener, digest: str) -> None:
    with ThreadPoolExecutor(5) as pool:
        big = pool.submit(get, published, "/big")
        small = [pool.submit(get, published, "/small.txt") for _ in range(12)]
        assert [answer.result(120) for answer in small] == [b"small\n"] * 12
        assert hashlib.sha256(big.result(120)).hexdigest() == digest


def test_a_slow_reader_does_not_hold_up_the_guest(published: Listener, machine: QemuMachine) -> None:
    with socket.create_connection((published.host, published.port), 30) as slow:
        slow.sendall(b"GET /big HTTP/1.0\r\n\r\n")
        assert slow.recv(1) == b"H"
        for _ in range(3):
            assert get(published, "/small.txt") == b"small\n"
        assert machine.channel.ping() < 5


def test_forty_clients_at_once(published: Listener) -> None:
    with ThreadPoolExecutor(40) as pool:
        assert list(pool.map(lambda _: get(published, "/small.txt"), range(40))) == [b"small\n"] * 40


def test_a_port_where_nothing_listens_resets_the_client(machine: QemuMachine, digest: str) -> None:
    publisher = Publisher()
    listener = publisher.publish(opener(machine, 9))
    with (
        pytest.raises(ConnectionResetError),
        socket.create_connection((listener.host, listener.port), 30) as client,
    ):
        client.recv(1)
    publisher.close()


def test_the_death_of_the_guest_resets_its_clients(machine: QemuMachine, published: Listener) -> None:
    """The last test of this machine."""
    with socket.create_connection((published.host, published.port), 30) as client:
        client.sendall(b"GET /big HTTP/1.0\r\n\r\n")
        assert client.recv(1) == b"H"
        threading.Timer(0.2, machine.terminate).start()
        with pytest.raises(ConnectionResetError):
            trickle(client)
