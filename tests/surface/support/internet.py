"""A small internet in network namespaces, and a host that is connected to nothing else. Needs root and `ip`.

`python internet.py ADDRESS` is its only inhabitant: a web server on port 80 of every address, and a name server on
`ADDRESS`. The name `flip.test` is public when it is asked for the first time and the host's own loopback after.
"""

from __future__ import annotations

import contextlib
import http.server
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
WEB, OTHER, PRIVATE = "93.184.216.34", "93.184.216.35", "10.9.8.7"
NAMES = {
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

    def __init__(self) -> None:
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
        for address in (WEB, OTHER, PRIVATE, "169.254.169.254"):
            _ip("-n", inet, "addr", "add", f"{address}/32", "dev", "lo")
        for name, link in ((host, near), (inet, far)):
            _ip("-n", name, "link", "set", link, "up")
        _ip("-n", host, "route", "add", "default", "via", ROUTER)
        self._etc.mkdir(parents=True)
        (self._etc / "resolv.conf").write_text(f"nameserver {ROUTER}\nsearch evil.test\noptions timeout:1 attempts:2\n")
        (self._etc / "hosts").write_text(f"127.0.0.1 localhost\n{WEB} listed.test\n")
        (self._etc / "nsswitch.conf").write_text("hosts: files dns\n")
        command = ["ip", "netns", "exec", inet, sys.executable, __file__, ROUTER]
        self._server = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self._server.stdout is not None
        assert self._server.stdout.readline() == b"ready\n"

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
def internet() -> Iterator[Internet]:
    """One that ends with the block."""
    made = Internet()
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

    def do_GET(self) -> None:
        if self.path.startswith("/away"):
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
            body = f"{self.connection.getsockname()[0]} {self.path}\n".encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

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
    records = [b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 0, 4) + socket.inet_aton(one) for one in known or ()]
    records = records if kind == 1 else []
    flags = 0x8180 if known else 0x8183
    return query[:2] + struct.pack("!HHHHH", flags, 1, len(records), 0, 0) + query[12 : at + 5] + b"".join(records)


def main(address: str) -> None:
    web = http.server.ThreadingHTTPServer(("0.0.0.0", 80), Page)
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
    main(sys.argv[1])
