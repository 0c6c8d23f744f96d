"""`pyro mcp serve` beside a hello-world server of the `mcp` package: when it is there, and what it adds to a call."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rig import PYRO, Bench, Row, interleave, timed

from pyro_mcp import Pyro

AT_ONCE = 20
SLEEP_SECONDS = 2
IDLE_SECONDS = 20
HELLO_WORLD = """
from mcp.server import MCPServer
server = MCPServer("hello")
@server.tool()
def add(a: int, b: int) -> int:
    return a + b
server.run("stdio")
"""


class Host:
    """A host, as far as it matters: it writes lines and reads them."""

    def __init__(self, argv: list[str], environ: dict[str, str]) -> None:
        self._numbers = itertools.count()
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environ
        )
        self.pid = self._process.pid

    def send(self, method: str, params: dict[str, Any] | None = None) -> int:
        number = next(self._numbers)
        self._write({"jsonrpc": "2.0", "id": number, "method": method, "params": params or {}})
        return number

    def receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def ask(self, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        number = self.send(method, params)
        while (answer := self.receive()).get("id") != number:
            pass
        return answer["result"]

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        result = self.ask("tools/call", {"name": tool, "arguments": arguments})
        if result.get("isError"):
            raise RuntimeError(result)
        return result["structuredContent"]

    def greet(self) -> None:
        self.ask(
            "initialize",
            {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}},
        )
        self._write({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _write(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        self._process.stdin.flush()


def measure(bench: Bench) -> Iterator[Row]:
    environ = {**os.environ, "PYRO_STATE_DIR": str(bench.settings.state_dir)}
    serve = [PYRO, "mcp", "serve", "--profile", "workspace-full"]
    yield from _starts(bench, serve, environ)
    with _running(serve, environ) as host, Pyro(state_dir=bench.settings.state_dir) as pyro:
        yield from _calls(bench, host, pyro)
        yield from _at_once(host, pyro)
        yield from _idle(host)


def _starts(bench: Bench, serve: list[str], environ: dict[str, str]) -> Iterator[Row]:
    hello = [sys.executable, "-c", HELLO_WORLD]
    for name, lists in (("initialize", False), ("tools/list", True)):
        ours, theirs = interleave(
            lambda: _start(serve, environ, lists=lists),  # noqa: B023
            lambda: _start(hello, environ, lists=lists),  # noqa: B023
            bench.runs,
        )
        raw_is = "a hello-world server of the mcp package"
        yield Row(f"mcp serve: start to {name} answered", ours * 1e3, "ms", theirs * 1e3, theirs * 1e3, raw_is)
        yield Row(f"the same, as aimed at ({name})", ours * 1e3, "ms", 150)


def _start(argv: list[str], environ: dict[str, str], *, lists: bool) -> float:
    begun = time.perf_counter()
    host = Host(argv, environ)
    host.greet()
    if lists:
        host.ask("tools/list")
    taken = time.perf_counter() - begun
    host.close()
    return taken


@contextlib.contextmanager
def _running(serve: list[str], environ: dict[str, str]) -> Iterator[Host]:
    host = Host(serve, environ)
    host.greet()
    yield host
    host.close()


def _calls(bench: Bench, host: Host, pyro: Pyro) -> Iterator[Row]:
    host.call("workspace_list")
    yield Row("tools/list once it runs", bench.median(lambda: timed(lambda: host.ask("tools/list"))) * 1e3, "ms", 50)
    tool, sdk = interleave(
        lambda: timed(lambda: host.call("workspace_list")), lambda: timed(pyro.list_workspaces), bench.runs * 10
    )
    yield Row("what MCP adds to workspace_list, p50", (tool - sdk) * 1e3, "ms", 5, sdk * 1e3, "the SDK's call")


def _at_once(host: Host, pyro: Pyro) -> Iterator[Row]:
    workspace = pyro.create_workspace(environment="debian:12").workspace_id
    params = {
        "name": "workspace_exec",
        "arguments": {"workspace_id": workspace, "command": f"sleep {SLEEP_SECONDS}", "timeout_seconds": 120},
    }
    try:
        host.ask("tools/call", params)
        alone = timed(lambda: host.ask("tools/call", params))
        begun = time.perf_counter()
        waited = {host.send("tools/call", params) for _ in range(AT_ONCE)}
        meanwhile = timed(lambda: host.ask("ping"))
        while waited:
            waited.discard(host.receive().get("id", -1))
        together = time.perf_counter() - begun
    finally:
        pyro.delete_workspace(workspace)
    name = f"{AT_ONCE} execs of `sleep {SLEEP_SECONDS}` in flight, against one"
    yield Row(name, together / alone, "x", 2, alone * 1e3, "one, ms")
    yield Row("ping while they run", meanwhile * 1e3, "ms", 50)


def _idle(host: Host) -> Iterator[Row]:
    time.sleep(2)
    before = _cost(host.pid)
    time.sleep(IDLE_SECONDS)
    seconds, switches = (after - earlier for after, earlier in zip(_cost(host.pid), before, strict=True))
    yield Row(f"idle for {IDLE_SECONDS} s: processor time", seconds * 1e3, "ms", 10)
    yield Row(f"idle for {IDLE_SECONDS} s: times it woke", switches, "", 2)


def _cost(pid: int) -> tuple[float, int]:
    """Processor seconds, and voluntary context switches of all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    lines = (
        line for task in Path(f"/proc/{pid}/task").iterdir() for line in (task / "status").read_text().splitlines()
    )
    return seconds, sum(int(line.split()[1]) for line in lines if line.startswith("voluntary"))
