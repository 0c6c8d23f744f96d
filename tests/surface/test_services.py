"""Services over SDK, CLI and MCP, in a real guest and on the host: one scenario, one set of refusals."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from short import Short, promised

from .conftest import PYRO, Problem

pytestmark = pytest.mark.guest

SERVICE = {
    *("service_name", "state", "command", "cwd", "started_at", "ready_at", "ended_at", "exit_code", "pid"),
    *("readiness", "stop_reason", "published_ports", "execution_mode", "isolation"),
}
LOOP = "echo begun; echo warned >&2; echo $TOKEN; touch ready; while :; do sleep 1; done"


@pytest.fixture
def made(anywhere: Any) -> Iterator[None]:
    """A workspace with a secret."""
    options: dict[str, Any] = {"allow_host_compat": True} if anywhere.hosted else {}
    anywhere.do(
        "create_workspace", environment="debian:12", name="scene", secrets={"TOKEN": "hunter2hunter2"}, **options
    )
    yield
    anywhere.do("delete_workspace", workspace_id="scene")


def start(anywhere: Any, name: str, command: str, **given: Any) -> dict[str, Any]:
    done: dict[str, Any] = anywhere.do(
        "start_service", workspace_id="scene", service_name=name, command=["sh", "-c", command], **given
    )
    return done


def test_a_service_lives(anywhere: Any, made: None) -> None:
    begun = start(anywhere, "loop", LOOP, readiness={"file": "ready"}, secret_env=["TOKEN"], ready_interval_ms=100)
    assert promised(begun) >= SERVICE
    assert (begun["state"], begun["service_name"], begun["exit_code"]) == ("ready", "loop", None)
    assert (begun["readiness"], begun["cwd"], begun["published_ports"]) == ({"file": "ready"}, "/workspace", [])
    assert begun["execution_mode"] == ("host_compat" if anywhere.hosted else "guest")
    bad = start(anywhere, "bad", "echo no config >&2; exit 3", readiness={"tcp": "127.0.0.1:1"})
    assert (bad["state"], bad["exit_code"], bad["stderr"]) == ("failed", 3, "no config\n")
    with pytest.raises(Problem, match="is ready already") as caught:
        start(anywhere, "loop", LOOP)
    assert caught.value.code == "conflict"
    listed = anywhere.do("list_services", workspace_id="scene")
    assert [one["service_name"] for one in listed["services"]] == ["loop", "bad"]
    assert promised(listed["services"][0]) >= SERVICE
    said = anywhere.do("logs_service", workspace_id="scene", service_name="loop")
    assert (said["stdout"], said["stderr"]) == ("begun\n[secret]\n", "warned\n")
    assert (said["tail_lines"], said["truncated"]) == (200, False)
    last = anywhere.do("logs_service", workspace_id="scene", service_name="loop", tail_lines=1)
    assert (last["stdout"], last["truncated"]) == ("[secret]\n", True)
    whole = anywhere.do("logs_service", workspace_id="scene", service_name="loop", all=True)
    assert isinstance(whole, Short) or whole["tail_lines"] is None
    assert whole["stdout"] == said["stdout"]
    shown = anywhere.do("status_workspace", workspace_id="scene")
    assert (shown["service_count"], shown["running_service_count"]) == (2, 1)
    told = anywhere.do("summarize_workspace", workspace_id="scene")["services"]
    assert [one["service_name"] for one in told["now"]] == ["loop"]
    assert [one["service_name"] for one in told["before"]] == ["bad"]
    ended = anywhere.do("stop_service", workspace_id="scene", service_name="loop")
    assert (ended["state"], ended["stop_reason"]) == ("stopped", "it was stopped")
    assert anywhere.do("status_service", workspace_id="scene", service_name="loop")["state"] == "stopped"


def test_the_workspaces_stop_and_reset(anywhere: Any, made: None) -> None:
    start(anywhere, "loop", f"trap 'echo saved; exit' TERM; {LOOP}", readiness={"file": "ready"})
    anywhere.do("stop_workspace", workspace_id="scene")
    anywhere.do("start_workspace", workspace_id="scene")
    found = anywhere.do("status_service", workspace_id="scene", service_name="loop")
    assert (found["state"], found["stop_reason"]) == ("stopped", "the workspace was stopped")
    assert anywhere.do("logs_service", workspace_id="scene", service_name="loop")["stdout"] == "begun\n\nsaved\n"
    anywhere.do("reset_workspace", workspace_id="scene")
    assert anywhere.do("list_services", workspace_id="scene")["count"] == 0


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"service_name": "../x", "command": ["true"]}, "invalid_argument", "a letter or digit"),
    ({"service_name": "x", "command": ["a\0b"]}, "invalid_argument", "NUL"),
    ({"service_name": "x", "command": ["true"], "readiness": {"tcp": "127.0.0.1:0"}}, "invalid_argument", "65535"),
    (
        {"service_name": "x", "command": ["true"], "readiness": {"tcp": "203.0.113.1:80"}},
        "invalid_argument",
        "dials",
    ),
    (
        {"service_name": "x", "command": ["true"], "readiness": {"http": "https://x/"}},
        "invalid_argument",
        "http://",
    ),
    ({"service_name": "x", "command": ["true"], "published_ports": ["65536"]}, "invalid_argument", "65535"),
    ({"service_name": "x", "command": ["true"], "published_ports": ["0"]}, "invalid_argument", "65535"),
    ({"service_name": "x", "command": ["true"], "published_ports": ["80"]}, "conflict", "network policy"),
    (
        {"service_name": "x", "command": ["true"], "cwd": ""},
        "invalid_argument",
        "cwd: expected text of length 1 or more",
    ),
]


def test_refusals(anywhere: Any, made: None) -> None:
    for params, code, words in REFUSED:
        if "\0" in "".join(params["command"]) and type(anywhere).__name__ == "CliSurface":
            continue  # No command line can hold a NUL.
        with pytest.raises(Problem, match=re.escape(words)) as caught:
            anywhere.do("start_service", workspace_id="scene", **params)
        assert caught.value.code == code
    assert anywhere.do("list_services", workspace_id="scene")["count"] == 0


SERVER = """
import http.server, os, time
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *words): pass
    def do_GET(self):
        if self.headers.get("Upgrade"):
            self.send_response(101); self.send_header("Upgrade", "echo"); self.send_header("Connection", "Upgrade")
            self.end_headers()
            while piece := self.connection.recv(4096): self.connection.sendall(piece.upper())
            self.close_connection = True
        elif self.path == "/stream":
            self.send_response(200); self.send_header("Transfer-Encoding", "chunked"); self.end_headers()
            for number in range(3):
                self.wfile.write(b"5\\r\\nline\\n\\r\\n"); self.wfile.flush()
                while number == 0 and not os.path.exists("go"): time.sleep(0.1)
            self.wfile.write(b"0\\r\\n\\r\\n")
        else:
            size = int(self.path.strip("/") or 5)
            self.send_response(200); self.send_header("Content-Length", str(size)); self.end_headers()
            self.wfile.write(b"hello" * (size // 5))
http.server.ThreadingHTTPServer(("127.0.0.1", 8000), Handler).serve_forever()
"""


@pytest.fixture
def published(surface: Any) -> Iterator[dict[str, Any]]:
    """A web server in a guest, published, on one surface after the other."""
    surface.do("create_workspace", environment="debian:12-build", name="web", network_policy="egress+published-ports")
    surface.do("write_workspace_file", workspace_id="web", path="server.py", text=SERVER)
    yield surface.do(
        "start_service",
        workspace_id="web",
        service_name="http",
        command=["python3", "server.py"],
        readiness={"http": "http://127.0.0.1:8000/"},
        ready_timeout_seconds=120,
        published_ports=["8000"],
    )
    surface.do("delete_workspace", workspace_id="web")


class Reader:
    """An HTTP client down to the bytes."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 30)
        self.file = self.socket.makefile("rb")

    def get(self, path: str, *headers: str) -> dict[str, str]:
        lines = [f"GET {path} HTTP/1.1", "Host: x", *headers]
        self.socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        found = {"status": self.file.readline().decode().strip()}
        while line := self.file.readline().decode().strip():
            name, _, value = line.partition(": ")
            found[name.lower()] = value
        return found

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.socket.close()


def test_a_server_in_a_guest_is_reached_from_here(surface: Any, published: dict[str, Any]) -> None:
    assert published["state"] == "ready", published
    (port,) = published["published_ports"]
    assert (port["guest_port"], port["host"], port["protocol"]) == (8000, "127.0.0.1", "tcp")
    number = port["host_port"]
    with Reader(number) as alive, Reader(number) as slow:
        slow.get("/20000000")
        for _ in range(20):
            assert alive.get("/")["content-length"] == "5"
            assert alive.file.read(5) == b"hello"
        answer = alive.get("/stream")
        assert answer["transfer-encoding"] == "chunked"
        assert alive.file.readline() == b"5\r\n"
        # Only now does the server say the rest.
        surface.do("write_workspace_file", workspace_id="web", path="go", text="on")
        while alive.file.readline() != b"0\r\n":
            pass
        alive.file.readline()
        assert alive.get("/", "Upgrade: echo", "Connection: Upgrade")["status"].startswith("HTTP/1.1 101")
        for word in (b"one", b"two" * 1000):
            alive.socket.sendall(word)
            assert alive.file.read(len(word)) == word.upper()
        read = 0
        while read < 20_000_000:
            read += len(slow.file.read(1_000_000))
        assert read == 20_000_000
    surface.do("stop_service", workspace_id="web", service_name="http")
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", number)) != 0


def test_it_outlives_a_node_that_is_killed(surface: Any, published: dict[str, Any], environ: dict[str, str]) -> None:
    number = published["published_ports"][0]["host_port"]
    status = subprocess.run([*PYRO, "node", "status", "--json"], env=environ, capture_output=True, check=True)
    os.kill(json.loads(status.stdout)["pid"], signal.SIGKILL)
    found = ask_again(lambda: surface.do("status_service", workspace_id="web", service_name="http"))
    assert (found["state"], found["pid"]) == ("ready", published["pid"])
    assert [(port["host_port"], port["problem"]) for port in found["published_ports"]] == [(number, None)]
    with Reader(number) as client:
        assert client.get("/")["content-length"] == "5"


def ask_again(ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The answer, from the next node if need be: a call that meets a node's death is told so."""
    try:
        return ask()
    except Problem as problem:
        if problem.code != "node_unavailable":
            raise
        return ask()
