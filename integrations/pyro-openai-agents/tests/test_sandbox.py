"""The sandbox client with the real Agents SDK and real guests."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import tarfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from agents import RunConfig, Runner, set_tracing_disabled
from agents.run_config import SandboxRunConfig
from agents.sandbox import SandboxAgent
from agents.sandbox.entries import File
from agents.sandbox.errors import (
    ExecTimeoutError,
    ExecTransportError,
    InvalidManifestPathError,
    MountConfigError,
    WorkspaceArchiveWriteError,
    WorkspaceReadNotFoundError,
)
from agents.sandbox.manifest import Environment, Manifest
from agents.sandbox.session import SandboxSession
from agents.sandbox.snapshot import LocalSnapshotSpec
from agents.sandbox.types import User
from agents.sandbox.workspace_paths import SandboxPathGrant
from pyro_openai_agents import PyroSandboxClient, PyroSandboxClientOptions
from scripted_openai import ScriptedOpenAI

from pyro_mcp import AsyncPyro

Body = Callable[[PyroSandboxClient, SandboxSession], Awaitable[None]]


@pytest.fixture
def client(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> PyroSandboxClient:
    monkeypatch.setenv("PYRO_STATE_DIR", environ["PYRO_STATE_DIR"])
    return PyroSandboxClient()


async def workspaces() -> int:
    async with AsyncPyro() as pyro:
        return (await pyro.list_workspaces()).count


def in_session(client: PyroSandboxClient, body: Body, **given: Any) -> None:
    """Run `body` with a started session, which is deleted afterwards and has left nothing."""

    async def main() -> None:
        before = await workspaces()
        session = await client.create(**given)
        try:
            async with session:
                await body(client, session)
        finally:
            await client.delete(session)
        assert await workspaces() == before
        await client.delete(session)

    asyncio.run(main())


def test_commands(client: PyroSandboxClient) -> None:
    async def body(_: PyroSandboxClient, session: SandboxSession) -> None:
        assert await session.running()
        both = await session.exec("printf '\\377\\0out'; echo err >&2; exit 3")
        assert (both.stdout, both.stderr, both.exit_code) == (b"\xff\0out", b"err\n", 3)
        words = await session.exec("printf", "%s|", "a b", "$HOME", shell=False)
        assert words.stdout == b"a b|$HOME|"
        assert (await session.exec("pwd; echo $FRUIT")).stdout == b"/workspace\nquince\n"
        assert (await session.exec("nowhere", shell=False)).exit_code == 127
        assert (await session.exec("id -un", user=User(name="nobody"))).stdout == b"nobody\n"
        with pytest.raises(ExecTimeoutError):
            await session.exec("sleep 100", timeout=0.5)
        much = await session.exec("head -c 20000000 /dev/zero | tr '\\0' x")
        assert much.stdout.startswith(b"xxx")
        assert len(much.stdout) < 20_000_000

    in_session(client, body, manifest=Manifest(environment=Environment(value={"FRUIT": "quince"})))


def test_a_cancelled_command_is_dead(client: PyroSandboxClient) -> None:
    async def body(_: PyroSandboxClient, session: SandboxSession) -> None:
        task = asyncio.create_task(session.exec("echo $$ > pid; exec sleep 1000"))
        while not (await session.exec("test -s pid")).ok():
            await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        left = await session.exec('grep State "/proc/$(cat pid)/status"')
        assert left.exit_code != 0 or b"zombie" in left.stdout

    in_session(client, body)


def test_files(client: PyroSandboxClient) -> None:
    async def body(_: PyroSandboxClient, session: SandboxSession) -> None:
        data = bytes(range(256)) * 20_000
        await session.write(Path("deep/er/data.bin"), io.BytesIO(data))
        with await session.read(Path("deep/er/data.bin")) as stream:
            assert stream.read() == data
        assert await session.read_bounded(Path("/workspace/deep/er/data.bin"), max_bytes=3) == b"\0\1\2"
        assert [entry.path.rsplit("/")[-1] for entry in await session.ls("deep/er")] == ["data.bin"]
        await session.mkdir("empty")
        await session.rm("deep", recursive=True)
        assert (await session.exec("ls")).stdout == b"empty\nseeded.txt\n"
        assert (await session.exec("cat seeded.txt")).stdout == b"from the manifest"
        with pytest.raises(WorkspaceReadNotFoundError):
            await session.read(Path("nothing"))
        await session.exec("ln -s /etc out")
        for path in ("../etc/passwd", "out/passwd", "/etc/passwd"):
            with pytest.raises(InvalidManifestPathError):
                await session.read(Path(path))
            with pytest.raises(InvalidManifestPathError):
                await session.write(Path(path), io.BytesIO(b"x"))
        await session.exec("chmod 755 .; mkdir -m 700 mine")
        with pytest.raises(WorkspaceArchiveWriteError):
            await session.write(Path("mine/file"), io.BytesIO(b"x"), user="nobody")

    in_session(client, body, manifest=Manifest(entries={"seeded.txt": File(content=b"from the manifest")}))


def test_an_archive_holds_the_workspace_and_brings_it_back(client: PyroSandboxClient) -> None:
    async def body(_: PyroSandboxClient, session: SandboxSession) -> None:
        await session.exec(
            "mkdir -p a/b; echo one > a/b/one; ln -s a/b/one link; chmod +x a/b/one; mkfifo pipe; rm pipe"
        )
        session.register_persist_workspace_skip_path("skipped")
        await session.exec("echo no > skipped")
        archive = await session.persist_workspace()
        with tarfile.open(fileobj=archive) as tar:
            names = {member.name for member in tar.getmembers()}
        assert {"./a/b/one", "./link"} <= names
        assert "./skipped" not in names
        await session.exec("rm -rf a; echo later > later")
        archive.seek(0)
        await session.hydrate_workspace(archive)
        archive.close()
        assert (await session.exec("cat link; ls; test -x a/b/one")).stdout == b"one\na\nlink\n"
        with pytest.raises(WorkspaceArchiveWriteError):
            await session.hydrate_workspace(io.BytesIO(b"no archive"))

    in_session(client, body)


def test_a_port_is_reached(client: PyroSandboxClient) -> None:
    serve = (
        'perl -MIO::Socket::INET -e \'$l = IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1:8000");'
        ' open F, ">up"; close F; $c = $l->accept; print $c "hello"\''
    )

    async def body(_: PyroSandboxClient, session: SandboxSession) -> None:
        server = asyncio.create_task(session.exec(serve))
        while not (await session.exec("test -e up")).ok():
            await asyncio.sleep(0.1)
        there = await session.resolve_exposed_port(8000)
        assert there.host == "127.0.0.1"
        with await asyncio.to_thread(socket.create_connection, (there.host, there.port)) as connection:
            assert await asyncio.to_thread(connection.recv, 10) == b"hello"
        await server

    options = PyroSandboxClientOptions(network_policy="egress+published-ports", exposed_ports=(8000,))
    in_session(client, body, options=options)


def test_a_session_is_resumed_with_its_files_or_from_its_snapshot(client: PyroSandboxClient, tmp_path: Path) -> None:
    async def main() -> None:
        before = await workspaces()
        first = await client.create(snapshot=LocalSnapshotSpec(base_path=tmp_path))
        async with first:
            await first.exec("echo kept > file")
        assert not await first.running()
        payload = json.loads(json.dumps(client.serialize_session_state(first.state)))

        second = await client.resume(client.deserialize_session_state(dict(payload)))
        async with second:
            assert second.state.workspace_id == first.state.workspace_id
            assert (await second.exec("cat file")).stdout == b"kept\n"
        await client.delete(second)

        third = await client.resume(client.deserialize_session_state(dict(payload)))
        async with third:
            assert third.state.workspace_id != first.state.workspace_id
            assert (await third.exec("cat file")).stdout == b"kept\n"
        await client.delete(third)
        assert await workspaces() == before
        with pytest.raises(ExecTransportError, match="workspace"):
            await third.exec("true")

    asyncio.run(main())


def test_what_cannot_be_is_refused(client: PyroSandboxClient) -> None:
    async def main() -> None:
        before = await workspaces()
        with pytest.raises(ValueError, match="/workspace"):
            await client.create(manifest=Manifest(root="/elsewhere"))
        grant = SandboxPathGrant(path="/data", host_path="/srv/data")
        with pytest.raises(MountConfigError, match="host paths"):
            await client.create(manifest=Manifest(extra_path_grants=(grant,)))
        session = await client.create()
        assert not session.supports_pty()
        with pytest.raises(NotImplementedError):
            await session.pty_exec_start("sh")
        await client.delete(session)
        assert await workspaces() == before

    asyncio.run(main())


def test_an_agent_works_in_it(client: PyroSandboxClient, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [("exec_command", {"cmd": "git --version > version.txt; cat version.txt"})]
    with ScriptedOpenAI(steps) as model:
        for name, value in model.environ.items():
            monkeypatch.setenv(name, value)
        set_tracing_disabled(True)
        agent = SandboxAgent(name="worker", model="scripted", instructions="Work.")
        sandbox = SandboxRunConfig(client=client, options=PyroSandboxClientOptions())

        async def main() -> None:
            before = await workspaces()
            result = await Runner.run(agent, "Which git?", run_config=RunConfig(sandbox=sandbox))
            assert result.final_output == "done"
            assert await workspaces() == before

        asyncio.run(main())
    assert "git version 2." in str(model.answers[0])
