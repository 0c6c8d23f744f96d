"""A guest's way out, with the test as the host: what programs in a guest see of it, also when its root works against
it."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyro_mcp.machines.driver import MachineSpec, NetworkLink
from pyro_mcp.machines.qemu.driver import QemuDriver, QemuMachine
from pyro_mcp.protocol.channel import ChannelClosed, Data, Stream, StreamResult
from pyro_mcp.protocol.relay import Ending, Relay
from pyro_mcp.system.progress import silent

pytestmark = pytest.mark.guest

R = "/run/pyro/runtime"
PYTHON = [f"{R}/lib/ld.so", "--library-path", f"{R}/lib", "--argv0", f"{R}/bin/python3", f"{R}/bin/python3", "-I", "-S"]
PRELUDE = f"""
import errno, socket, struct, sys, threading, time
sys.path.insert(0, "{R}/agent")

def attempt(address, port=80, seconds=30):
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as sock:
        sock.settimeout(seconds)
        try:
            sock.connect((address, port))
        except OSError as error:
            return errno.errorcode.get(error.errno, type(error).__name__)
        return "connected"

def fetch(address, port=80):
    with socket.create_connection((address, port), 30) as sock:
        sock.sendall(b"hello")
        sock.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: sock.recv(65536), b"")).decode()

def query(name, kind=1):
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack("!6H", 7, 256, 1, 0, 0, 0) + labels + b"\\0" + struct.pack("!HH", kind, 1)
"""
WEB, WEB6 = "198.51.100.7", "2001:db8::7"
FORBIDDEN, FORBIDDEN6, CLOSED, SLOW, AWAY = (
    "198.51.100.66",
    "2001:db8::66",
    "198.51.100.67",
    "198.51.100.68",
    "198.51.100.69",
)
NAMES = {"web.test": [WEB], "six.test": [WEB6], "many.test": [f"198.51.100.{last}" for last in range(1, 201)]}
ANSWERS = {FORBIDDEN: "permission", FORBIDDEN6: "permission", CLOSED: "refused", SLOW: "timeout", AWAY: "unreachable"}


class Refuse(Exception):
    def __init__(self, code: str) -> None:
        self.code = code

    def to_wire(self) -> dict[str, Any]:
        return {"code": self.code, "message": self.code}


class World:
    """The host's side: names, and a server that says in capitals what it was told."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.open = 0
        self._server = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def handle(self, stream: Stream) -> None:
        self.asked.append((stream.verb, stream.params))
        getattr(self, stream.verb)(stream)

    def net_resolve(self, stream: Stream) -> None:
        name, family = stream.params["name"], stream.params["family"]
        if name == "forbidden.test":
            raise Refuse("permission")
        if name not in NAMES:
            raise Refuse("not_found")
        stream.result({"addresses": [a for a in NAMES[name] if (":" in a) == (family == 6)], "ttl": 5})

    def net_connect(self, stream: Stream) -> None:
        address = stream.params["address"]
        if address in ANSWERS:
            if address == SLOW:
                time.sleep(1.5)  # Long enough for the guest's kernel to send its first packet again.
            raise Refuse(ANSWERS[address])
        relay = Relay(stream, socket.create_connection(("127.0.0.1", self.port), 10))
        stream.event({"connected": True})
        if relay.run() is Ending.DONE:
            stream.result({})
        else:
            raise Refuse("conflict")

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(sock,), daemon=True).start()

    def _talk(self, sock: socket.socket) -> None:
        # Some tests break their connections on purpose.
        with sock, contextlib.suppress(OSError):
            while data := sock.recv(65536):
                sock.sendall(data.upper())


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


@pytest.fixture
def guest(world: World, driver: QemuDriver, new_spec: Callable[..., MachineSpec]) -> Iterator[QemuMachine]:
    link = NetworkLink(world.handle, ca=b"-----BEGIN CERTIFICATE-----\nhost\n-----END CERTIFICATE-----\n", ipv6=True)
    machine = driver.launch(dataclasses.replace(new_spec(), network=link), silent)
    yield machine
    machine.terminate()


def run(machine: QemuMachine, argv: list[str]) -> str:
    stream = machine.channel.open("exec", {"argv": argv, "env": {}, "timeout_seconds": 120, "stdin": False})
    output = bytearray()
    for message in stream.messages():
        if isinstance(message, Data):
            output += message.data
        elif isinstance(message, StreamResult):
            assert message.value["exit_code"] == 0, output.decode()
    return output.decode().strip()


def python(machine: QemuMachine, code: str) -> str:
    return run(machine, [*PYTHON, "-c", PRELUDE + code])


def test_connect_tells_the_truth(guest: QemuMachine, world: World) -> None:
    wanted = {
        WEB: "connected",
        WEB6: "connected",
        FORBIDDEN: "EHOSTUNREACH",
        FORBIDDEN6: "EACCES",
        CLOSED: "ECONNREFUSED",
        SLOW: "EHOSTUNREACH",
        AWAY: "EHOSTUNREACH",
        "127.0.0.1": "ECONNREFUSED",
    }
    found = python(guest, f"for a in {list(wanted)}: print(a, attempt(a, seconds=10))")
    assert dict(line.split() for line in found.splitlines()) == wanted
    asked = [params["address"] for verb, params in world.asked if verb == "net_connect"]
    assert asked == [address for address in wanted if address != "127.0.0.1"], "each is asked for once, own ones never"


def test_data_and_ends_pass_both_ways(guest: QemuMachine) -> None:
    code = f"""
print(fetch("{WEB}"), fetch("{WEB6}"))
with socket.create_connection(("{WEB}", 80)) as sock:
    size, got = 8 << 20, 0
    threading.Thread(target=lambda: (sock.sendall(b"x" * size), sock.shutdown(socket.SHUT_WR))).start()
    while piece := sock.recv(1 << 18):
        assert piece == b"X" * len(piece)
        got += len(piece)
    print(got == size)
"""
    assert python(guest, code) == "HELLO HELLO\nTrue"


def test_a_hundred_connections_at_once_and_the_one_too_many(guest: QemuMachine) -> None:
    code = f"""
said, failed, lock = [], [], threading.Lock()
def one():
    try: answer = fetch("{WEB}")
    except OSError as error: failed.append(errno.errorcode[error.errno])
    else: said.append(answer)
threads = [threading.Thread(target=one) for _ in range(100)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(said), set(said), failed)
held = []
while True:
    sock = socket.socket()
    refusal = sock.connect_ex(("{WEB}", 80))
    if refusal: break
    held.append(sock)
print(120 < len(held) <= 128, errno.errorcode[refusal])
for sock in held: sock.close()
"""
    assert python(guest, code) == "100 {'HELLO'} []\nTrue EHOSTUNREACH"
    assert guest.channel.ping() < 5


def test_names_are_the_hosts_to_answer(guest: QemuMachine) -> None:
    code = """
for name in ("web.test", "six.test", "many.test", "forbidden.test", "missing.test"):
    try: found = sorted({a[4][0] for a in socket.getaddrinfo(name, 80, type=socket.SOCK_STREAM)})
    except socket.gaierror as error: print(name, error.errno)
    else: print(name, len(found), found[0])
for server in ("8.8.8.8", "2001:4860:4860::8888"):
    with socket.create_connection((server, 53), 10) as sock:
        sock.sendall(len(query("many.test")).to_bytes(2, "big") + query("many.test"))
        size = int.from_bytes(sock.recv(2), "big")
        print(size, struct.unpack("!6H", sock.recv(12))[1:4])
    with socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.sendto(query("web.test"), (server, 53))
        answer, peer = sock.recvfrom(512)
        print(peer[0], struct.unpack("!6H", answer[:12])[1:4])
"""
    assert python(guest, code).splitlines() == [
        f"web.test 1 {WEB}",
        f"six.test 1 {WEB6}",
        "many.test 200 198.51.100.1",
        f"forbidden.test {socket.EAI_NONAME}",
        f"missing.test {socket.EAI_NONAME}",
        f"{12 + 15 + 200 * 16} ({0x8180}, 1, 200)",
        f"8.8.8.8 ({0x8180}, 1, 1)",
        f"{12 + 15 + 200 * 16} ({0x8180}, 1, 200)",
        f"2001:4860:4860::8888 ({0x8180}, 1, 1)",
    ]


def test_everything_else_is_refused_at_once(guest: QemuMachine, world: World) -> None:
    code = f"""
for family, kind, protocol, address in (
    (socket.AF_INET, socket.SOCK_DGRAM, 0, "{WEB}"),
    (socket.AF_INET6, socket.SOCK_DGRAM, 0, "{WEB6}"),
    (socket.AF_INET, socket.SOCK_RAW, 1, "{WEB}"),
    (socket.AF_INET, socket.SOCK_RAW, 132, "{WEB}"),
):
    with socket.socket(family, kind, protocol) as sock:
        try: print(sock.sendto(b"x" * 16, (address, 123)))
        except OSError as error: print(errno.errorcode[error.errno])
"""
    assert python(guest, code).split() == ["EPERM"] * 4
    assert world.asked == []


def test_root_may_undo_it_and_gains_nothing(guest: QemuMachine, world: World) -> None:
    code = f"""
from pyro_mcp.guest.net import netlink, rules
held = socket.create_connection(("{WEB}", 80))
n = netlink.Netlink(netlink.NETFILTER)
head, table = struct.pack("!BBH", 0, 0, 10), struct.pack("!BBH", 1, 0, 0) + netlink.text(1, "pyro")
n.request((0x10, 0, head), (10 << 8 | 2, netlink.ACK, table), (0x11, 0, head))
print("flushed", attempt("{WEB}", seconds=2))
r = netlink.Netlink(netlink.ROUTE)
r.request((17, netlink.ACK, struct.pack("=BxHiII", 0, 0, socket.if_nametoindex("pyro0"), 0, 0)))
print("unlinked", attempt("{WEB}", seconds=2), attempt("{WEB6}", seconds=2))
try: print(socket.getaddrinfo("web.test", 80))
except socket.gaierror: print("no names")
"""
    assert python(guest, code).splitlines() == [
        "flushed TimeoutError",
        "unlinked ENETUNREACH ENETUNREACH",
        "no names",
    ]
    assert [params["address"] for _, params in world.asked] == [WEB]
    before = agent_seconds(guest)
    run(guest, ["sleep", "4"])
    assert agent_seconds(guest) - before < 2.0, "the agent spins"


def agent_seconds(machine: QemuMachine) -> float:
    """Processor time of process 1 so far."""
    fields = run(machine, ["cat", "/proc/1/stat"]).rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def test_junk_on_the_agents_ports_and_queue_does_no_harm(guest: QemuMachine, world: World) -> None:
    code = f"""
import os
for name in ("tcp", "tcp6", "udp", "udp6"):
    for line in open("/proc/net/" + name).read().splitlines()[1:]:
        port = int(line.split()[1].rpartition(":")[2], 16)
        family = socket.AF_INET6 if name.endswith("6") else socket.AF_INET
        here = "::1" if family == socket.AF_INET6 else "127.0.0.1"
        with socket.socket(family, socket.SOCK_STREAM if name[0] == "t" else socket.SOCK_DGRAM) as sock:
            sock.settimeout(2)
            for junk in (b"", b"\\xff" * 700, os.urandom(512)):
                try:
                    sock.connect((here, port))
                    sock.send(junk)
                except OSError: break
ip = bytes([0x45, 0, 0, 40]) + bytes(4) + bytes([64, 6, 0, 0, 192, 0, 0, 2, 198, 51, 100, 7])
with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
    for tail in (bytes(13) + b"\\2" + bytes(6), b"\\0\\1\\0\\x50" + bytes(8) + b"\\x50\\2" + bytes(6)):
        try: sock.sendto(ip + tail, ("{WEB}", 0))
        except OSError: pass
print(fetch("{WEB}"))
"""
    assert python(guest, code) == "HELLO"


def test_the_next_node_carries_on_and_the_old_connections_break(
    guest: QemuMachine, world: World, driver: QemuDriver, tmp_path: Path
) -> None:
    code = f"""
held = socket.create_connection(("{WEB}", 80))
print("held", flush=True)
try: print(held.recv(1))
except OSError as error: print(errno.errorcode[error.errno], flush=True)
open("/root/said", "w").write(fetch("{WEB}"))
"""
    run(guest, ["sh", "-c", "cat > /root/run.py << 'END'\n" + PRELUDE + code + "\nEND"])
    run(guest, ["sh", "-c", f"cd /root; setsid {' '.join(PYTHON)} run.py > out 2>&1 < /dev/null &"])
    wait(lambda: run(guest, ["cat", "/root/out"]) == "held")
    guest.channel.close()
    with pytest.raises(ChannelClosed):
        guest.channel.ping()
    link = NetworkLink(world.handle)
    adopted = driver.adopt(guest.machine_id, tmp_path / guest.machine_id, link)
    assert adopted is not None
    wait(lambda: run(adopted, ["sh", "-c", "cat /root/said || true"]).endswith("HELLO"))
    assert run(adopted, ["cat", "/root/out"]).splitlines() == ["held", "ECONNRESET"]


def wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.2)


def test_the_hosts_authorities_are_trusted_and_the_image_keeps_its_own(guest: QemuMachine) -> None:
    bundle = run(guest, ["cat", "/etc/ssl/certs/ca-certificates.crt"])
    assert bundle.endswith("-----BEGIN CERTIFICATE-----\nhost\n-----END CERTIFICATE-----")
    assert bundle.count("-----BEGIN") > 1
    variables = run(guest, ["env"])
    for name in ("SSL_CERT_FILE", "PIP_CERT", "NODE_EXTRA_CA_CERTS"):
        assert f"{name}=/etc/ssl/certs/ca-certificates.crt" in variables


def test_without_a_policy_there_is_no_way(launch: Callable[..., QemuMachine]) -> None:
    machine = launch()
    code = f"""
print([name for _, name in socket.if_nameindex()], attempt("{WEB}"), attempt("{WEB6}"), attempt("127.0.0.1"))
try: print(socket.getaddrinfo("web.test", 80))
except socket.gaierror: print("no names")
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    try: sock.sendto(query("web.test"), ("8.8.8.8", 53))
    except OSError as error: print(errno.errorcode[error.errno])
"""
    assert python(machine, code).splitlines() == [
        "['lo'] ENETUNREACH ENETUNREACH ECONNREFUSED",
        "no names",
        "ENETUNREACH",
    ]
    assert "CERT" not in run(machine, ["env"])
