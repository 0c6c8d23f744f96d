"""`pyro mcp serve` as a chat host lives with it: slow calls, cancellation, progress, and leaving."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

PYRO = [sys.executable, "-m", "pyro_mcp"]
HELLO = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}

PIPE_BYTES = 64 * 1024


def client(environ: dict[str, str], mode: str) -> Client:
    args = [*PYRO[1:], "mcp", "serve", "--profile", "vm-run"]
    return Client(stdio_client(StdioServerParameters(command=PYRO[0], args=args, env=environ)), mode=mode)  # type: ignore[arg-type]


def machines(environ: dict[str, str]) -> int:
    done = subprocess.run([*PYRO, "node", "status", "--json"], env=environ, capture_output=True)
    return int(json.loads(done.stdout)["machine_count"] or 0)


def started(environ: dict[str, str]) -> subprocess.Popen[bytes]:
    server = subprocess.Popen(
        [*PYRO, "mcp", "serve"], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps(HELLO).encode() + b"\n")
    server.stdin.flush()
    answer = json.loads(server.stdout.readline())
    assert answer["result"]["serverInfo"]["name"] == "pyro"
    return server


def close(server: subprocess.Popen[bytes]) -> None:
    for stream in (server.stdin, server.stdout, server.stderr):
        assert stream is not None
        stream.close()


@pytest.mark.parametrize("way", [signal.SIGINT, signal.SIGTERM, None])
def test_the_server_leaves_at_once(environ: dict[str, str], way: signal.Signals | None) -> None:
    server = started(environ)
    if way is None:
        assert server.stdin is not None
        server.stdin.close()
    else:
        server.send_signal(way)
    assert server.wait(30) == 0
    close(server)


def test_malformed_lines_are_survived(environ: dict[str, str]) -> None:
    server = started(environ)
    assert server.stdin is not None
    assert server.stdout is not None
    for line in (b"{", b"[]", b"null", b"\xff\xfe", b'{"jsonrpc":"2.0","id":{},"method":5}', b"x" * 20_000_000):
        server.stdin.write(line + b"\n")
    server.stdin.write(b'{"jsonrpc":"2.0","id":"end","method":"ping"}\n')
    server.stdin.flush()
    for line in server.stdout:
        answer = json.loads(line)
        if answer.get("id") == "end":
            assert answer["result"] == {}
            break
    server.stdin.close()
    assert server.wait(30) == 0
    close(server)


@pytest.mark.guest
@pytest.mark.parametrize("mode", ["legacy", "auto"])
def test_other_calls_go_on_while_one_is_slow(environ: dict[str, str], mode: str) -> None:
    async def talk() -> None:
        async with client(environ, mode) as host, anyio.create_task_group() as group:
            order: list[str] = []

            async def call(name: str, command: str) -> None:
                arguments = {"environment": "debian:12", "command": command, "timeout_seconds": 900}
                await host.call_tool("vm_run", arguments)
                order.append(name)

            group.start_soon(call, "slow", "sleep 600")
            await anyio.sleep(0.5)
            await call("quick", "true")
            assert order == ["quick"]
            group.cancel_scope.cancel()

    anyio.run(talk)


@pytest.mark.guest
@pytest.mark.parametrize("mode", ["legacy", "auto"])
def test_a_cancelled_call_is_dead_in_the_guest(environ: dict[str, str], mode: str) -> None:
    async def talk() -> None:
        async with client(environ, mode) as host:
            arguments = {"environment": "debian:12", "command": "sleep 250", "timeout_seconds": 300}
            with anyio.move_on_after(3):
                await host.call_tool("vm_run", arguments)
            deadline = time.monotonic() + 10
            while await anyio.to_thread.run_sync(machines, environ):
                assert time.monotonic() < deadline, "the machine is still there"
                await anyio.sleep(0.2)
            again = await host.call_tool("vm_run", {"environment": "debian:12", "command": "echo alive"})
            assert "alive" in again.content[0].text  # type: ignore[union-attr]

    anyio.run(talk)


@pytest.mark.guest
@pytest.mark.parametrize("mode", ["legacy", "auto"])
def test_a_long_call_reports_progress(environ: dict[str, str], mode: str) -> None:
    reports: list[tuple[float, str | None]] = []

    async def heard(progress: float, total: float | None, message: str | None) -> None:
        reports.append((progress, message))

    async def talk() -> None:
        async with client(environ, mode) as host:
            arguments: dict[str, Any] = {"environment": "debian:12", "command": "sleep 7", "timeout_seconds": 20}
            await host.call_tool("vm_run", arguments, progress_callback=heard)

    anyio.run(talk)
    assert reports
    numbers = [number for number, _ in reports]
    assert numbers == sorted(set(numbers)), "progress only grows"
    assert all(message for _, message in reports)


@pytest.mark.guest
def test_a_host_that_dies_leaves_no_machine(environ: dict[str, str]) -> None:
    server = started(environ)
    assert server.stdin is not None
    call = {"name": "vm_run", "arguments": {"environment": "debian:12", "command": "sleep 99", "timeout_seconds": 99}}
    for message in (
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": call},
    ):
        server.stdin.write(json.dumps(message).encode() + b"\n")
        server.stdin.flush()
    deadline = time.monotonic() + 30
    while machines(environ) == 0:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    server.kill()
    server.wait(30)
    close(server)
    while machines(environ):
        assert time.monotonic() < deadline + 10
        time.sleep(0.2)


def test_a_host_that_reads_nothing_and_closes_its_end_is_left(environ: dict[str, str]) -> None:
    server = started(environ)
    assert server.stdin is not None
    os.set_blocking(server.stdin.fileno(), False)
    ask = b'{"jsonrpc":"2.0","id":2,"method":"tools/list"}\n'
    # Until answers fill one pipe, and with that requests the other: what is not read is not gathered in the server.
    asked = 0
    while select.select([], [server.stdin], [], 2)[1]:
        asked += os.write(server.stdin.fileno(), ask)
        assert asked < 4 * PIPE_BYTES
    server.stdin.close()
    assert server.wait(30) == 0
    close(server)
