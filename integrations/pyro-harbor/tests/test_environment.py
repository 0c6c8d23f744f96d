"""The environment with the real Harbor and real guests: its parts, and a whole trial by Harbor's command line."""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from harbor.models.task.config import EnvironmentConfig, NetworkMode, NetworkPolicy
from harbor.models.trial.paths import TrialPaths
from pyro_harbor import PyroEnvironment

from pyro_mcp import AsyncPyro
from pyro_mcp.settings import Settings

Body = Callable[[PyroEnvironment], Awaitable[None]]
OFF = NetworkPolicy(network_mode=NetworkMode.NO_NETWORK)


@pytest.fixture
def make(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., PyroEnvironment]:
    monkeypatch.setenv("PYRO_STATE_DIR", environ["PYRO_STATE_DIR"])
    home = tmp_path / "environment"
    home.mkdir()

    def made(*, task: dict[str, Any] | None = None, **given: Any) -> PyroEnvironment:
        paths = TrialPaths(tmp_path / "trial")
        paths.mkdir()
        config = EnvironmentConfig(**{"docker_image": "debian:12", **(task or {})})
        return PyroEnvironment(home, "task", "task__abc__env", paths, config, **{"network_policy": OFF, **given})

    return made


async def workspaces() -> int:
    async with AsyncPyro() as pyro:
        return (await pyro.list_workspaces()).count


def in_it(environment: PyroEnvironment, body: Body) -> None:
    async def main() -> None:
        before = await workspaces()
        await environment.start(force_build=False)
        try:
            await body(environment)
        finally:
            await environment.stop(delete=True)
        assert await workspaces() == before
        with pytest.raises(RuntimeError, match="not been started"):
            await environment.exec("true")

    asyncio.run(main())


def test_commands(make: Callable[..., PyroEnvironment]) -> None:
    async def body(environment: PyroEnvironment) -> None:
        both = await environment.exec("set -o pipefail; echo out; echo err >&2; exit 3")
        assert (both.stdout, both.stderr, both.return_code) == ("out\n", "err\n", 3)
        where = await environment.exec("pwd; echo $FRUIT $TREE", env={"TREE": "a b"})
        assert where.stdout == "/srv/work\nquince a b\n"
        assert (await environment.exec("pwd", cwd="/tmp")).stdout == "/tmp\n"
        for user, name in (("nobody", "nobody\n"), (65534, "nobody\n"), ("root", "root\n"), (None, "root\n")):
            assert (await environment.exec("id -un", user=user)).stdout == name
        with environment.with_default_user("nobody"):
            assert (await environment.exec("id -un")).stdout == "nobody\n"
        with pytest.raises(RuntimeError, match="timed out after 1 seconds"):
            await environment.exec("sleep 100", timeout_sec=1)

    in_it(make(task={"workdir": "/srv/work", "cpus": 2, "memory_mb": 768}, persistent_env={"FRUIT": "quince"}), body)


def test_output_is_passed_on_while_it_comes(make: Callable[..., PyroEnvironment]) -> None:
    heard: list[tuple[str, str]] = []

    async def hear(text: str, stream: str) -> None:
        await asyncio.sleep(0)
        heard.append((stream, text))

    async def body(environment: PyroEnvironment) -> None:
        with environment.scoped_output_callback(hear):
            await environment.exec("printf 'a\\303'; sleep 0.2; printf '\\244'; printf e >&2")
        assert "".join(text for stream, text in heard if stream == "stdout") == "aä"
        assert ("stderr", "e") in heard

    in_it(make(), body)


def test_the_machine_is_as_large_as_the_task_says(make: Callable[..., PyroEnvironment]) -> None:
    async def body(environment: PyroEnvironment) -> None:
        assert (await environment.exec("nproc")).stdout == "2\n"
        memory = int(str((await environment.exec("awk '/MemTotal/ {print $2}' /proc/meminfo")).stdout))
        assert 500_000 < memory < 768 * 1024

    in_it(make(task={"cpus": 2, "memory_mb": 768}), body)


def test_files_go_in_and_out_as_they_are(make: Callable[..., PyroEnvironment], tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "deep" / "empty").mkdir(parents=True)
    (tree / "deep" / "data").write_bytes(bytes(range(256)) * 1000)
    (tree / "run.sh").write_text("#!/bin/sh\necho ran\n")
    (tree / "run.sh").chmod(0o755)
    (tree / "link").symlink_to("deep/data")

    async def body(environment: PyroEnvironment) -> None:
        await environment.upload_dir(tree, "/opt/tree")
        assert (await environment.exec("./run.sh", cwd="/opt/tree")).stdout == "ran\n"
        await environment.download_dir("/opt/tree", tmp_path / "back")
        back = tmp_path / "back"
        assert (back / "link").readlink() == Path("deep/data")
        assert (back / "deep" / "data").read_bytes() == (tree / "deep" / "data").read_bytes()
        assert (back / "deep" / "empty").is_dir()
        assert os.access(back / "run.sh", os.X_OK)

        await environment.upload_file(tree / "run.sh", "/new/place/run.sh")
        assert (await environment.exec("/new/place/run.sh")).stdout == "ran\n"
        await environment.download_file("/opt/tree/deep/data", tmp_path / "new" / "data")
        assert (tmp_path / "new" / "data").read_bytes() == (tree / "deep" / "data").read_bytes()

        with pytest.raises(RuntimeError, match="cannot download /nothing"):
            await environment.download_file("/nothing", tmp_path / "nothing")
        assert not list(tmp_path.glob("*nothing*"))
        with pytest.raises(RuntimeError, match="cannot download /nothing"):
            await environment.download_dir("/nothing", tmp_path / "nothing")
        with pytest.raises(RuntimeError, match="cannot upload /proc/x"):
            await environment.upload_file(tree / "run.sh", "/proc/x")

    in_it(make(), body)


def test_a_guest_writes_nowhere_else(make: Callable[..., PyroEnvironment], tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, str(outside)
        tar.addfile(link)
        for name in ("link/one", "../outside/two", f"{outside}/three", "good"):
            tar.addfile(tarfile.TarInfo(name))
    (tmp_path / "evil.tar").write_bytes(content.getvalue())

    async def body(environment: PyroEnvironment) -> None:
        await environment.upload_file(tmp_path / "evil.tar", "/evil.tar")
        await environment.exec("printf '#!/bin/sh\\ncat /evil.tar' > /usr/local/bin/tar; chmod +x /usr/local/bin/tar")
        await environment.download_dir("/anything", tmp_path / "back")
        assert (tmp_path / "back" / "good").exists()
        assert not list(outside.iterdir())
        assert not (tmp_path / "back" / "link").is_symlink()
        await environment.exec("echo no archive > /evil.tar")
        with pytest.raises(RuntimeError, match="no archive"):
            await environment.download_dir("/anything", tmp_path / "back")

    in_it(make(), body)


def test_the_network_is_what_the_task_says(make: Callable[..., PyroEnvironment]) -> None:
    listed = NetworkPolicy(network_mode="allowlist", allowed_hosts=["example.com", "*.example.org", "192.0.2.0/24"])
    assert make(network_policy=OFF)._policy() == ("off", None, None)
    assert make(network_policy=NetworkPolicy())._policy() == ("egress", None, None)
    environment = make(network_policy=listed)
    assert environment._policy() == ("egress", ["example.com", "*.example.org"], ["192.0.2.0/24"])

    async def body(environment: PyroEnvironment) -> None:
        async with AsyncPyro() as pyro:
            shown = await pyro.status_workspace(str(environment._workspace_id))
        assert shown.network_policy == "egress"
        denied = await environment.exec("getent hosts denied.example.net", timeout_sec=60)
        assert denied.return_code != 0

    in_it(environment, body)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"task": {"docker_image": None}}, "docker_image"),
        ({"task": {"gpus": 1}}, "GPU"),
        ({"task": {"cpus": 0.5}}, "cpus|CPU"),
        ({"task": {"os": "windows"}}, "Windows"),
        ({"mounts": [{"type": "bind", "source": "/etc", "target": "/host"}]}, "cannot mount /host"),
        ({"stream": True}, "stream"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_what_cannot_be_is_refused(make: Callable[..., PyroEnvironment], given: dict[str, Any], words: str) -> None:
    with pytest.raises((ValueError, RuntimeError), match=words):
        make(**given)


def test_a_definition_for_docker_is_refused(make: Callable[..., PyroEnvironment], tmp_path: Path) -> None:
    (tmp_path / "environment" / "Dockerfile").write_text("FROM debian:12\n")
    with pytest.raises(ValueError, match="environment=debian:12"):
        make()
    assert make(environment="debian:12")
    (tmp_path / "environment" / "docker-compose.yaml").write_text("services: {}\n")
    with pytest.raises(ValueError, match="Compose"):
        make(environment="debian:12")


def test_a_kept_one_is_stopped_and_there(make: Callable[..., PyroEnvironment]) -> None:
    async def main() -> None:
        environment = make()
        await environment.start(force_build=False)
        kept = str(environment._workspace_id)
        await environment.exec("echo kept > file")
        await environment.stop(delete=False)
        async with AsyncPyro() as pyro:
            assert (await pyro.status_workspace(kept)).state == "stopped"
            await pyro.delete_workspace(kept)
        await environment.stop(delete=True)

    asyncio.run(main())


def test_one_that_cannot_be_set_up_leaves_no_workspace(make: Callable[..., PyroEnvironment]) -> None:
    async def main() -> None:
        before = await workspaces()
        with pytest.raises(RuntimeError, match="work directory"):
            await make(task={"workdir": "/proc/nothing"}).start(force_build=False)
        assert await workspaces() == before

    asyncio.run(main())


TASK = """\
version = "1.0"
[agent]
timeout_sec = 120.0
[verifier]
timeout_sec = 120.0
[environment]
docker_image = "debian:12"
memory_mb = 768
network_mode = "no-network"
"""


def test_a_whole_trial(environ: dict[str, str], tmp_path: Path) -> None:
    task = tmp_path / "task"
    for name in ("environment", "solution", "tests"):
        (task / name).mkdir(parents=True)
    (task / "task.toml").write_text(TASK)
    (task / "instruction.md").write_text("Write hello into hello.txt.\n")
    (task / "solution" / "solve.sh").write_text("#!/bin/bash\necho hello > /workspace/hello.txt\n")
    check = "grep -qx hello /workspace/hello.txt && echo 1 > /logs/verifier/reward.txt"
    (task / "tests" / "test.sh").write_text(f"#!/bin/bash\n{check} || echo 0 > /logs/verifier/reward.txt\n")
    words = ["trial", "start", "--path", str(task), "--agent", "oracle", "--trials-dir", str(tmp_path / "trials")]
    command = [str(Path(sys.executable).with_name("harbor")), *words]
    command += ["--environment-import-path", "pyro_harbor:PyroEnvironment"]
    # Harbor keeps things of its own in HOME.
    environ = {**environ, "HOME": str(tmp_path), "PYRO_CACHE_DIR": str(Settings.load().cache_dir)}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (result,) = [json.loads(path.read_text()) for path in (tmp_path / "trials").glob("*/result.json")]
    assert result["exception_info"] is None, done.stdout
    assert result["verifier_result"]["rewards"] == {"reward": 1.0}
    listed = subprocess.run(
        [sys.executable, "-m", "pyro_mcp", "workspace", "list", "--json"], env=environ, capture_output=True, check=True
    )
    assert json.loads(listed.stdout)["count"] == 0
