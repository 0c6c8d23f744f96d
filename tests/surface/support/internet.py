"""A small internet in network namespaces, and a host that is connected to nothing else. Needs root and `ip`.

`python internet.py ADDRESS SITE` is its only inhabitant: a web server on port 80 of every address, IPv6 too, and a name
server on `ADDRESS`. The name `flip.test` is public when it is asked for the first time and the host's own loopback
after. The directory SITE is served below `/site`, and git repositories in it below `/git`, by git's own server.
"""

from __future__ import annotations

import contextlib
import http.server
import itertools
import os
import shutil
import socket
import socketserver
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

HOST, ROUTER = "93.184.215.2", "93.184.215.1"
HOST6, ROUTER6 = "2606:2800:215::2", "2606:2800:215::1"
WEB6, ULA = "2606:2800:220::34", "fd12:3456:789a::8"
WEB, OTHER, PRIVATE = "93.184.216.34", "93.184.216.35", "10.9.8.7"
DISGUISED = {
    "nat64.test": "64:ff9b::a09:807",
    "sixtofour.test": "2002:a09:807::1",
    "teredo.test": "2001:0:5db8:d822::f5f6:f7f8",
    "compatible.test": "::a09:807",
}
"""IPv6 forms of `PRIVATE`. All but the last are there, so that a way to them would be seen."""
NAMES = {
    "six.test": [WEB6],
    "both.test": [WEB, WEB6],
    "inside.test": [PRIVATE, WEB6],
    "ula.test": [ULA],
    "loop.test": ["::1"],
    "local.test": ["fe80::1"],
    "host6.test": [HOST6],
    "mapped.test": [f"::ffff:{PRIVATE}"],
    **{name: [address] for name, address in DISGUISED.items()},
    "web.test": [WEB],
    "a.wild.test": [OTHER],
    "wild.test": [OTHER],
    "private.test": [PRIVATE],
    "mixed.test": [PRIVATE, WEB],
    "host.test": [HOST],
    "metadata.test": ["169.254.169.254"],
    "xn--bcher-kva.test": [WEB],
}
FLIP = [[WEB], ["127.0.0.1"]]
BIG = 100 * 1024 * 1024


class Internet:
    """Where a command must run to be on that host: after the words of `prefix`."""

    def __init__(self, site: Path) -> None:
        self._site = site
        self._names = [f"pyro-{kind}-{os.getpid()}" for kind in ("inet", "host")]
        self.prefix = ["ip", "netns", "exec", self._names[1]]
        self._etc = Path("/etc/netns") / self._names[1]
        self._server: subprocess.Popen[bytes] | None = None

    def open(self) -> None:
        inet, host = self._names
        near, far = f"ph{os.getpid()}", f"pi{os.getpid()}"
        for name in self._names:
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("link", "add", near, "netns", host, "type", "veth", "peer", "name", far, "netns", inet)
        _ip("-n", host, "addr", "add", f"{HOST}/24", "dev", near)
        _ip("-n", inet, "addr", "add", f"{ROUTER}/24", "dev", far)
        _ip("-n", host, "addr", "add", f"{HOST6}/64", "dev", near, "nodad")
        _ip("-n", inet, "addr", "add", f"{ROUTER6}/64", "dev", far, "nodad")
        for address in (WEB, OTHER, PRIVATE, "169.254.169.254"):
            _ip("-n", inet, "addr", "add", f"{address}/32", "dev", "lo")
        for address in (WEB6, ULA, *list(DISGUISED.values())[:3]):
            _ip("-n", inet, "addr", "add", f"{address}/128", "dev", "lo", "nodad")
        for name, link in ((host, near), (inet, far)):
            _ip("-n", name, "link", "set", link, "up")
        _ip("-n", host, "route", "add", "default", "via", ROUTER)
        _ip("-n", host, "route", "add", "default", "via", ROUTER6)
        self._etc.mkdir(parents=True)
        (self._etc / "resolv.conf").write_text(f"nameserver {ROUTER}\nsearch evil.test\noptions timeout:1 attempts:2\n")
        (self._etc / "hosts").write_text(f"127.0.0.1 localhost\n{WEB} listed.test\n")
        (self._etc / "nsswitch.conf").write_text("hosts: files dns\n")
        command = ["ip", "netns", "exec", inet, sys.executable, __file__, ROUTER, str(self._site)]
        self._server = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self._server.stdout is not None
        assert self._server.stdout.readline() == b"ready\n"

    def sent(self) -> dict[str, int]:
        """What the host has sent so far: TCP connections begun, IPv4 packets, IPv6 datagrams and pings."""
        command = [*self.prefix, "cat", "/proc/net/snmp", "/proc/net/snmp6"]
        shown = subprocess.run(command, check=True, capture_output=True, text=True)
        lines = [line.split() for line in shown.stdout.splitlines()]
        counts = {line[0]: int(line[1]) for line in lines if len(line) == 2}
        for names, numbers in itertools.pairwise(lines):
            if names[0] == numbers[0]:
                pairs = zip(names[1:], numbers[1:], strict=True)
                counts |= {names[0][:-1] + name: int(number) for name, number in pairs}
        return {name: counts[name] for name in ("TcpActiveOpens", "IpOutRequests", "Udp6OutDatagrams", "Icmp6OutEchos")}

    def close(self) -> None:
        if self._server is not None and self._server.stdout is not None:
            self._server.kill()
            self._server.wait()
            self._server.stdout.close()
        for name in self._names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
        shutil.rmtree(self._etc, ignore_errors=True)


def why_not() -> str | None:
    """Why this machine cannot have one; None when it can."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return "network namespaces need root and iproute2"
    name = f"pyro-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], check=False, capture_output=True, text=True)
    if made.returncode:
        return f"no network namespaces here: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return None


@contextlib.contextmanager
def internet(site: Path = Path("/nonexistent")) -> Iterator[Internet]:
    """One that serves `site` and ends with the block."""
    made = Internet(site)
    try:
        made.open()
        yield made
    finally:
        made.close()


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


# -- its inhabitant


class Page(http.server.BaseHTTPRequestHandler):
    """Says who was asked for what; `/away` sends one to the private address, `/big` a lot."""

    site: Path

    def do_GET(self) -> None:
        if self.path.startswith("/git/"):
            self._git()
        elif self.path.startswith("/site/"):
            self._file(self.site / self.path.removeprefix("/site/"))
        elif self.path.startswith("/away"):
            self.send_response(301)
            self.send_header("Location", f"http://{PRIVATE}{self.path.removeprefix('/away')}")
            self.end_headers()
        elif self.path == "/big":
            self.send_response(200)
            self.send_header("Content-Length", str(BIG))
            self.end_headers()
            for _ in range(BIG >> 20):
                self.wfile.write(bytes(1 << 20))
        else:
            address = self.connection.getsockname()[0].removeprefix("::ffff:")
            self._say(f"{address} {self.path}\n".encode())

    def do_POST(self) -> None:
        self._git()

    def _say(self, body: bytes, kind: str = "text/plain") -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _file(self, path: Path) -> None:
        """A file, or the list of a directory as pip reads it."""
        if path.is_dir():
            names = "".join(f'<a href="{one.name}">{one.name}</a>\n' for one in path.iterdir())
            self._say(f"<!DOCTYPE html>\n<html><body>\n{names}</body></html>\n".encode(), "text/html")
        elif path.is_file():
            self._say(path.read_bytes(), "application/octet-stream")
        else:
            self.send_error(404)

    def _git(self) -> None:
        """git http-backend, as a web server runs it."""
        path, _, query = self.path.removeprefix("/git").partition("?")
        variables = {
            "GIT_PROJECT_ROOT": str(self.site),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        done = subprocess.run(["git", "http-backend"], input=body, env={**os.environ, **variables}, capture_output=True)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().splitlines())
        self.send_response(int(fields.pop("Status", "200").split()[0]))
        for name, value in fields.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


def answer(query: bytes, asked: list[str]) -> bytes:
    """The answer of the name server."""
    at, labels = 12, []
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode("latin-1"))
        at += 1 + query[at]
    name, kind = ".".join(labels).lower(), struct.unpack_from("!H", query, at + 1)[0]
    known = NAMES.get(name)
    if name == "flip.test":
        known = FLIP[min(asked.count(name), 1)]
        asked += [name] if kind == 1 else []
    elif name.endswith(".evil.test"):
        known = [OTHER]
    family = {1: socket.AF_INET, 28: socket.AF_INET6}.get(kind)
    packed = [socket.inet_pton(family, one) for one in known or () if family and (":" in one) == (kind == 28)]
    records = [b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 0, len(one)) + one for one in packed]
    flags = 0x8180 if known else 0x8183
    return query[:2] + struct.pack("!HHHHH", flags, 1, len(records), 0, 0) + query[12 : at + 5] + b"".join(records)


class Web(http.server.ThreadingHTTPServer):
    """On every address, of both kinds."""

    address_family = socket.AF_INET6
    request_queue_size = 128

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


def main(address: str, site: str) -> None:
    Page.site = Path(site)
    web = Web(("::", 80), Page)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    asked: list[str] = []

    class Names(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            data, sock = self.request
            sock.sendto(answer(data, asked), self.client_address)

    with socketserver.UDPServer((address, 53), Names) as names:
        print("ready", flush=True)
        names.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
