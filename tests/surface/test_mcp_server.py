"""`pyro mcp serve` as a chat host lives with it: slow calls, cancellation, progress, and leaving."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.shared.exceptions import MCPError

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


def call(request_id: object, **arguments: object) -> bytes:
    params = {"name": "vm_run", "arguments": arguments}
    return json.dumps({"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params}).encode()


def nested(depth: int) -> Any:
    return {"a": nested(depth - 1)} if depth else "x"


def test_every_call_is_answered(environ: dict[str, str]) -> None:
    """What cannot be read is refused by its id, and never run with other content than was sent."""
    server = started(environ)
    assert server.stdin is not None
    assert server.stdout is not None
    asked = {
        "surrogate": call("surrogate", environment="debian:12", command="a\ud800b"),
        "byte": call("byte", environment="debian:12", command="a-b").replace(b"-", b"\xff"),
        "long": call("long", environment="debian:12", command="x" * 20_000_000),
        "deep": call("deep", environment="debian:12", command="-").replace(b'"-"', b"[" * 50_000 + b"]" * 50_000),
        "bottom": call("bottom", environment="debian:12", command=nested(800)),
        "huge": call("huge", environment="debian:12", command="true", mem_mib=10**400),
        "nan": call("nan", environment="debian:12", command="true", mem_mib=float("nan")),
        "unknown": b'{"jsonrpc":"2.0","id":"unknown","method":"tools/eat"}',
        "tool": b'{"jsonrpc":"2.0","id":"tool","method":"tools/call","params":{"name":"vm_rnu"}}',
        "types": b'{"jsonrpc":"2.0","id":"types","method":"tools/call","params":{"name":5,"arguments":[]}}',
        "params": b'{"jsonrpc":"2.0","id":"params","method":"tools/call","params":"vm_run"}',
        "batch": b'[{"jsonrpc":"2.0","id":"batch","method":"ping"}]',
        "end": b'{"jsonrpc":"2.0","id":"end","method":"ping"}',
    }
    lines = [*asked.values()]
    lines[-1:-1] = [b"{", b"[]", b"null", b"\xff\xfe", b"", b'{"jsonrpc":"2.0","id":{},"method":5}', b"x" * 20_000_000]
    writer = threading.Thread(target=lambda: (server.stdin.write(b"\n".join(lines) + b"\n"), server.stdin.flush()))  # type: ignore[union-attr]
    writer.start()
    answers: dict[Any, Any] = {}
    nameless = []
    while len(answers) < len(asked):
        answer = json.loads(server.stdout.readline())
        if answer["id"] is None:
            nameless.append(answer["error"]["code"])
        else:
            assert answer["id"] not in answers
            answers[answer["id"]] = answer
    writer.join(30)
    assert sorted(nameless) == [-32700, -32700, -32600, -32600, -32600, -32600]
    assert set(answers) == set(asked)
    assert answers.pop("end")["result"] == {}
    codes = {name: answer["error"]["code"] for name, answer in answers.items() if "error" in answer}
    assert codes == {
        **dict.fromkeys(("surrogate", "byte", "nan"), -32700),
        **dict.fromkeys(("long", "deep", "batch"), -32600),
        **dict.fromkeys(("types", "params"), -32602),
        "unknown": -32601,
    }
    assert all(answers[name]["result"]["isError"] for name in ("bottom", "huge", "tool"))
    with open(f"/proc/{server.pid}/status") as status:
        peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    assert peak < 250_000, "kB: not every long line is kept"
    server.stdin.close()
    assert server.wait(5) == 0
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
@pytest.mark.parametrize("mode", ["legacy", "auto"])
def test_a_workspace_is_read_as_resources(environ: dict[str, str], mode: str) -> None:
    async def talk() -> None:
        stdio = StdioServerParameters(command=PYRO[0], args=[*PYRO[1:], "mcp", "serve"], env=environ)
        async with Client(stdio_client(stdio), mode=mode) as host:  # type: ignore[arg-type]

            async def read(end: str) -> str:
                contents = (await host.read_resource(f"pyro://workspaces{end}")).contents
                return str(contents[0].text)  # type: ignore[union-attr]

            made = await host.call_tool("workspace_create", {"environment": "debian:12", "name": f"read-{mode}"})
            workspace = made.structured_content["workspace_id"]  # type: ignore[index]
            try:
                await check(host, read, workspace)
            finally:
                await host.call_tool("workspace_delete", {"workspace_id": workspace})

    async def check(host: Client, read: Callable[[str], Awaitable[str]], workspace: str) -> None:
        async def write(path: str, text: str) -> None:
            arguments = {"workspace_id": workspace, "path": path, "text": text}
            assert not (await host.call_tool("workspace_file_write", arguments)).is_error

        written = "héllo\n" * 5_000 + "no end"
        await write("a dir/b%.txt", written)
        assert workspace in await read("")
        assert f'"name": "read-{mode}"' in await read(f"/{workspace}/summary")
        assert await read(f"/{workspace}/files/a%20dir/b%25.txt") == written
        patch = await read(f"/read-{mode}/diff")
        assert patch.count("+héllo\n") == 5_000
        assert patch.endswith("No newline at end of file\n"), "whole, without a mark"
        await write("long", "0123456\n" * 50_000)
        text = await read(f"/{workspace}/files/long")
        line = 256 * 1024 // 8 + 1
        mark = f"[... {50_000 * 8 - 256 * 1024} bytes left out; workspace_file_read with offset {line} reads on ...]\n"
        assert text == "0123456\n" * (line - 1) + mark
        make = {"workspace_id": workspace, "command": "head -c 99 /dev/zero >a0; echo z >z"}
        await host.call_tool("workspace_exec", make)
        first, second = (await read(f"/{workspace}/diff")).splitlines()[-2:]
        assert first.startswith("[... 1 change that a patch cannot say"), first
        assert second == '[... 2 changes left out or cut; workspace_diff with cursor "a0" shows them ...]'
        for end, code, words in (
            (f"/{workspace}/files/no", -32602, "no"),
            (f"/{workspace}/files/a0", -32602, "binary"),
            ("/no/diff", -32602, "no"),
            (f"/{workspace}/files/../x", -32602, "x"),
        ):
            with pytest.raises(MCPError, match=words) as caught:
                await read(end)
            assert caught.value.error.code == code, caught.value
            assert "<<" not in str(caught.value)

    anyio.run(talk)


@pytest.mark.guest
def test_a_host_that_dies_leaves_no_machine(environ: dict[str, str]) -> None:
    server = started(environ)
    assert server.stdin is not None
    server.stdin.write(b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n')
    server.stdin.write(call(2, environment="debian:12", command="sleep 99", timeout_seconds=99) + b"\n")
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


@pytest.mark.guest
def test_a_host_that_hangs_up_in_the_middle_of_a_call_leaves_nothing(environ: dict[str, str]) -> None:
    server = started(environ)
    assert server.stdin is not None
    server.stdin.write(call(2, environment="debian:12", command="sleep 99", timeout_seconds=99) + b"\n")
    server.stdin.flush()
    deadline = time.monotonic() + 30
    while machines(environ) == 0:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    close(server)
    assert server.wait(5) == 0
    while machines(environ):
        assert time.monotonic() < deadline + 10
        time.sleep(0.2)


def test_what_was_asked_before_the_end_is_answered(environ: dict[str, str]) -> None:
    ping = b'{"jsonrpc":"2.0","id":"ping","method":"ping"}\n'
    unknown = call("bad", environment="debian:12", command=5) + b"\n"
    done = subprocess.run(
        [*PYRO, "mcp", "serve"],
        env=environ,
        input=json.dumps(HELLO).encode() + b"\n" + unknown + ping,
        capture_output=True,
    )
    assert done.returncode == 0
    assert {json.loads(line)["id"] for line in done.stdout.splitlines()} == {1, "bad", "ping"}


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
