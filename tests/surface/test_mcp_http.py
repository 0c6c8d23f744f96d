"""`pyro mcp serve --transport streamable-http`: several clients, each by itself, and nobody else."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

PYRO = [sys.executable, "-m", "pyro_mcp"]
HELLO = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
CALL = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "vm_run", "arguments": {}}}


class HttpServer:
    """A server, and requests to it as anybody on this host may send them."""

    def __init__(self, environ: dict[str, str], *options: str) -> None:
        words = ["mcp", "serve", "--transport", "streamable-http", "--port", "0", *options]
        self.process = subprocess.Popen([*PYRO, *words], env=environ, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        said = [self.process.stderr.readline() for _ in range(3)]
        found = re.search(r"http://127\.0\.0\.1:(\d+)/mcp", said[0])
        assert found, said
        self.url, self.port = found[0], int(found[1])
        assert json.loads(said[2])["url"] == self.url
        file = Path(said[1].split(" is in ")[1].split(". An entry")[0])
        self.token = file.read_text().strip()
        assert self.token not in "".join(said)

    def post(self, body: bytes, **changes: str | None) -> tuple[int, dict[str, str], bytes]:
        headers = {
            "Authorization": f"Bearer {self.token}",
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            **{name.replace("_", "-"): value for name, value in changes.items()},
        }
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            given = {name: value for name, value in headers.items() if value is not None}
            connection.request("POST", "/mcp", body, given)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()

    @contextlib.asynccontextmanager
    async def client(self, mode: str) -> AsyncIterator[Client]:
        headers = {"Authorization": f"Bearer {self.token}"}
        async with create_mcp_http_client(headers) as by_http:
            transport = streamable_http_client(self.url, http_client=by_http)
            async with Client(transport, mode=mode) as client:  # type: ignore[arg-type]
                yield client

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(5)
        assert self.process.stderr is not None
        with self.process.stderr as said:
            assert (code, said.read()) == (0, "")


@pytest.fixture(scope="module")
def server(environ: dict[str, str]) -> Iterator[HttpServer]:
    made = HttpServer(environ)
    yield made
    made.close()


def test_nothing_runs_for_who_is_not_let_in(environ: dict[str, str], tmp_path: Path) -> None:
    state = tmp_path / "state"
    server = HttpServer({**environ, "PYRO_STATE_DIR": str(state)}, "--profile", "vm-run")
    call = json.dumps(
        {**CALL, "params": {"name": "vm_run", "arguments": {"environment": "debian:12", "command": "true"}}}
    )
    for changes, status in (
        ({"Authorization": None}, 401),
        ({"Authorization": "Bearer no"}, 401),
        ({"Host": "evil.example"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        # What a page can send without asking.
        ({"Authorization": None, "Content_Type": "text/plain", "Origin": "http://evil.example"}, 403),
        ({"Content_Type": "text/plain"}, 400),
    ):
        for version in (None, "2025-06-18", "2026-07-28"):
            assert server.post(call.encode(), mcp_protocol_version=version, **changes)[0] == status, changes
    assert sorted(path.name for path in state.iterdir()) == ["mcp.token", "mcp.token.lock"], "no node was started"
    server.close()


def test_case_is_no_reason_to_refuse(server: HttpServer) -> None:
    """Names of hosts and of schemes have none."""
    hello = json.dumps({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": HELLO}).encode()
    port = server.port
    for changes in (
        {"Host": f"LOCALHOST:{port}"},
        {"Host": f"LocalHost:{port}", "Origin": f"HTTP://LOCALHOST:{port}"},
        {"Authorization": f"bearer {server.token}"},
        {"Authorization": f"BEARER  {server.token}"},
    ):
        for version in (None, "2025-06-18"):
            assert server.post(hello, mcp_protocol_version=version, **changes)[0] == 200, changes
    for wrong in (server.token, f"Basic {server.token}", f"Bearer {server.token.swapcase()}", "Bearer", "Bearer "):
        assert server.post(hello, Authorization=wrong)[0] == 401


@pytest.mark.parametrize("mode", ["legacy", "auto"])
def test_the_client_of_the_library_is_served_in_both_eras(server: HttpServer, mode: str) -> None:
    async def talk() -> None:
        async with server.client(mode) as client:
            listed = await client.list_tools()
            assert "workspace_create" in {tool.name for tool in listed.tools}
            result = await client.call_tool("vm_run", {"environment": "debian:12", "command": "x", "mem_mib": 1})
            assert result.is_error
            assert "expected 128 to" in result.content[0].text  # type: ignore[union-attr]

    anyio.run(talk)


def test_what_cannot_be_read_is_refused(server: HttpServer) -> None:
    hello = json.dumps({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": HELLO}).encode()
    status, headers, _ = server.post(hello)
    assert status == 200
    session = headers["mcp-session-id"]
    for body, expected in (
        (json.dumps(CALL).encode().replace(b'"vm_run"', rb'"\ud800"'), 400),
        (json.dumps(CALL).encode().replace(b'"vm_run"', b'"\xff"'), 400),
        (b"[" * 100_000, 400),
        (b"{", 400),
        (b"", 400),
        (b"x" * 17_000_000, 413),
    ):
        assert server.post(body, mcp_session_id=session)[0] == expected
    assert server.post(json.dumps(CALL).encode(), mcp_session_id=session)[0] == 200
    assert server.post(json.dumps(CALL).encode(), mcp_session_id="another")[0] == 404


@pytest.mark.guest
@pytest.mark.parametrize("mode", ["legacy", "auto"])
def test_clients_have_nothing_to_do_with_each_other(server: HttpServer, mode: str) -> None:
    """One goes away in the middle of its call; the other's ends as it should."""

    async def talk() -> None:
        done: list[Any] = []

        async def works() -> None:
            async with server.client(mode) as client:
                arguments = {"environment": "debian:12", "command": "sleep 4; echo done", "timeout_seconds": 60}
                done.append(await client.call_tool("vm_run", arguments))

        async def leaves() -> None:
            async with server.client(mode) as client:
                with anyio.move_on_after(3):
                    await client.call_tool(
                        "vm_run", {"environment": "debian:12", "command": "sleep 250", "timeout_seconds": 300}
                    )

        async with anyio.create_task_group() as group:
            group.start_soon(works)
            group.start_soon(leaves)
        assert done[0].structured_content["stdout"] == "done\n"

    anyio.run(talk)


def test_clients_that_left_without_a_word_lock_nobody_out(environ: dict[str, str]) -> None:
    server = HttpServer(environ)
    hello = json.dumps({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": HELLO}).encode()
    ping = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"}).encode()
    opened = [server.post(hello)[1]["mcp-session-id"] for _ in range(10)]
    # The first has a stream open, the second asks at times; the third is the one unused for longest.
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    headers = {"Authorization": f"Bearer {server.token}", "Accept": "text/event-stream", "Mcp-Session-Id": opened[0]}
    with contextlib.closing(connection):
        connection.request("GET", "/mcp", headers=headers)
        assert connection.getresponse().status == 200
        assert server.post(ping, mcp_session_id=opened[1])[0] == 200
        for _ in range(56):
            status, headers, _body = server.post(hello)
            assert status == 200
        assert server.post(ping, mcp_session_id=headers["mcp-session-id"])[0] == 200
        assert [server.post(ping, mcp_session_id=one)[0] for one in opened[:4]] == [200, 200, 404, 200]
    server.close()


KILLED = """
import anyio, sys
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

async def talk(url, token, mode, workspace):
    async with create_mcp_http_client({"Authorization": "Bearer " + token}) as by_http:
        async with Client(streamable_http_client(url, http_client=by_http), mode=mode) as client:
            await client.call_tool(
                "workspace_exec", {"workspace_id": workspace, "command": "sleep 500", "timeout_seconds": 600}
            )

anyio.run(talk, *sys.argv[1:])
"""


@pytest.mark.guest
@pytest.mark.parametrize("mode", ["legacy", "auto"])
def test_the_call_of_a_killed_client_ends(server: HttpServer, mode: str) -> None:
    async def talk() -> None:
        async with server.client("auto") as client:

            async def ask(name: str, **arguments: Any) -> Any:
                return (await client.call_tool(name, arguments)).structured_content

            workspace = (await ask("workspace_create", empty=True, environment="debian:12"))["workspace_id"]

            async def wait_for(running: int) -> None:
                def count(status: dict[str, Any]) -> int:
                    return int(status.get("running_command_count", 0))

                while count(await ask("workspace_status", workspace_id=workspace)) != running:
                    await anyio.sleep(0.1)

            words = [sys.executable, "-c", KILLED, server.url, server.token, mode, workspace]
            with subprocess.Popen(words) as killed, anyio.fail_after(60):
                try:
                    await wait_for(1)
                finally:
                    killed.kill()
            with anyio.fail_after(10):
                await wait_for(0)
            await ask("workspace_delete", workspace_id=workspace)

    anyio.run(talk)


def test_it_ends_at_once_when_told_to(environ: dict[str, str]) -> None:
    server = HttpServer(environ)
    hello = json.dumps({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": HELLO}).encode()
    session = server.post(hello)[1]["mcp-session-id"]
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    headers = {"Authorization": f"Bearer {server.token}", "Accept": "text/event-stream", "Mcp-Session-Id": session}
    with contextlib.closing(connection):
        connection.request("GET", "/mcp", headers=headers)
        events = connection.getresponse()
        assert events.status == 200
        server.close()
        events.close()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--transport", "streamable-http", "--host", "0.0.0.0"], "not a loopback address"),
        (["--port", "1"], "cannot use --port with stdio"),
        (["--token-file", "/x"], "cannot use --token-file with stdio"),
        (["--transport", "streamable-http", "--port", "70000"], "not a port"),
        (["--transport", "sse"], "sse"),
    ],
)
def test_a_wrong_start_is_told(environ: dict[str, str], options: list[str], said: str) -> None:
    done = subprocess.run([*PYRO, "mcp", "serve", *options], env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert said in done.stderr
