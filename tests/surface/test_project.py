"""Workspaces from a project on real guests: git works inside, the server knows its checkout, a person is asked."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pexpect
import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

PYRO = [sys.executable, "-m", "pyro_mcp"]
OWN = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C", "PATH": os.environ["PATH"]}
Ask = Callable[..., Awaitable[dict[str, Any]]]


def git(root: Path, *words: str) -> str:
    identity = ("-c", "user.name=Ada", "-c", "user.email=ada@example.com")
    return subprocess.run(
        ["git", *identity, *words], cwd=root, env=OWN, check=True, capture_output=True, text=True
    ).stdout


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "repo"
    (root / "src").mkdir(parents=True)
    git(root, "init", "-q", "-b", "main")
    (root / "src" / "app").write_text("one\n")
    (root / ".gitignore").write_text("*.log\n")
    git(root, "add", ".")
    git(root, "commit", "-qm", "first")
    (root / "src" / "app").write_text("two\n")
    (root / "new").write_text("untracked\n")
    (root / "noise.log").write_text("ignored\n")
    return root


@pytest.mark.guest
def test_git_works_on_what_was_taken(surface: Any, project: Path) -> None:
    made = surface.do(
        "create_workspace", environment="debian:12", mem_mib=512, seed_path=str(project / "src"), git=True
    )
    name = made["workspace_id"]

    def sh(line: str) -> str:
        done = surface.do("exec_workspace", workspace_id=name, command=["sh", "-ec", line], timeout_seconds=120)
        assert done["exit_code"] == 0, done
        return str(done["stdout"])

    try:
        assert sh("git status --porcelain; ls") == " M src/app\n?? new\nnew\nsrc\n"
        assert sh("git log --format='%an %s'; git fsck 2>&1; git diff | tail -2") == "Ada first\n-one\n+two\n"
        assert sh("git add -A; git commit -qm inside; git log --format='%an %s'") == (
            "pyro workspace inside\nAda first\n"
        )
        seed = surface.do("status_workspace", workspace_id=name)["workspace_seed"]
        assert (seed["mode"], seed["seed_path"], seed["branch"]) == ("git", str(project), "main")
        assert seed["head"] == git(project, "rev-parse", "HEAD").strip()
        # The whole of it comes back with a reset, and this host's own has not moved.
        surface.do("reset_workspace", workspace_id=name)
        assert sh("git status --porcelain; git log --format=%s") == " M src/app\n?? new\nfirst\n"
        assert git(project, "log", "--format=%s") == "first\n"
    finally:
        surface.do("delete_workspace", workspace_id=name)


@pytest.mark.guest
def test_a_server_started_in_a_checkout_gives_it_to_workspaces(environ: dict[str, str], project: Path) -> None:
    (project / "pyro.toml").write_text(
        'environment = "debian:12"\nmem_mib = 512\nnetwork_policy = "egress"\nsetup = ["git log --format=%s"]\n'
    )

    async def talk(ask: Ask) -> None:
        made = await ask("workspace_create", {})
        assert made["environment"] == "debian:12"
        assert (made["mem_mib"], made["network_policy"]) == (512, "off")
        assert (made["workspace_seed"]["mode"], made["workspace_seed"]["seed_path"]) == ("git", str(project))
        assert made["project"]["left_out"] == ["network_policy = egress"]
        assert made["project"]["setup"][0]["output"] == "first\n"
        await ask("workspace_delete", {"workspace_id": made["workspace_id"]})
        bare = await ask("workspace_create", {"empty": True, "mem_mib": 512})
        # An answer leaves out what is empty.
        assert ("workspace_seed" in bare, bare["environment"]) == (False, "debian:12")
        await ask("workspace_delete", {"workspace_id": bare["workspace_id"]})
        ran = await ask("vm_run", {"command": "true"})
        assert ran["environment"] == "debian:12"

    served(environ, project / "src", [], talk)


@pytest.mark.guest
def test_what_takes_no_project_needs_no_file_of_it(environ: dict[str, str], project: Path, tmp_path: Path) -> None:
    (project / "pyro.toml").write_text("environment = [\n")
    other = tmp_path / "other"
    other.mkdir()

    async def talk(client: Client) -> None:
        for arguments in ({}, {"seed_path": str(project)}):
            refused = await client.call_tool("workspace_create", arguments)
            assert refused.is_error
            assert "pyro.toml" in refused.content[0].text  # type: ignore[union-attr]
        for arguments in ({"empty": True}, {"seed_path": str(other)}):
            made = (await client.call_tool("workspace_create", {**arguments, "mem_mib": 512})).structured_content
            assert made is not None
            assert made["environment"] == "debian:12"
            await client.call_tool("workspace_delete", {"workspace_id": made["workspace_id"]})
        told: list[str | None] = []

        async def heard(progress: float, total: float | None, message: str | None) -> None:
            told.append(message)

        ran = await client.call_tool("vm_run", {"command": "sleep 2"}, progress_callback=heard)
        assert not ran.is_error, ran
        assert any("using debian:12, as the project names none: cannot " in (one or "") for one in told), told

    with_client(environ, project, ["--environment", "debian:12", "--host-path", str(other)], talk)


@pytest.mark.guest
def test_a_server_with_a_repository_starts_from_a_clean_clone(
    environ: dict[str, str], project: Path, tmp_path: Path
) -> None:
    async def talk(ask: Ask) -> None:
        made = await ask("workspace_create", {"mem_mib": 512})
        seed = made["workspace_seed"]
        assert (seed["mode"], seed["repo_url"], seed["branch"]) == ("git", f"file://{project}", "main")
        assert made["environment"] == "debian:12"
        told = {"workspace_id": made["workspace_id"], "command": "git status --porcelain; cat src/app; ls"}
        assert (await ask("workspace_exec", told))["stdout"] == "one\nsrc\n"
        await ask("workspace_delete", {"workspace_id": made["workspace_id"]})

    url = f"file://{project}"
    try:
        served(environ, tmp_path, ["--repo-url", url, "--environment", "debian:12"], talk)
    finally:
        kept = Path(environ["PYRO_CACHE_DIR"]) / "projects" / hashlib.sha256(url.encode()).hexdigest()[:32]
        assert (kept / "repo").is_dir()
        shutil.rmtree(kept)


def served(environ: dict[str, str], cwd: Path, options: list[str], talk: Callable[[Ask], Any]) -> None:
    """A conversation with `pyro mcp serve`, started in `cwd`, in which every call succeeds."""

    async def run(client: Client) -> None:
        async def ask(tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
            result = await client.call_tool(tool, arguments)
            assert not result.is_error, result.content
            answer: dict[str, Any] = result.structured_content or {}
            return answer

        await talk(ask)

    with_client(environ, cwd, options, run)


def with_client(
    environ: dict[str, str], cwd: Path, options: list[str], talk: Callable[[Client], Awaitable[None]]
) -> None:
    async def run() -> None:
        parameters = StdioServerParameters(
            command=PYRO[0], args=[*PYRO[1:], "mcp", "serve", *options], env=environ, cwd=cwd
        )
        async with Client(stdio_client(parameters)) as client:  # type: ignore[arg-type]
            await talk(client)

    anyio.run(run)


def test_a_person_is_shown_what_a_project_asks_for_and_asked(environ: dict[str, str], project: Path) -> None:
    file = project / "pyro.toml"
    file.write_text('network_policy = "egress"\n')

    def pyro(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*PYRO, *words], cwd=project, env=environ, capture_output=True, text=True, timeout=60)

    def asked(answer: str) -> tuple[int, str]:
        person = pexpect.spawn(PYRO[0], [*PYRO[1:], "project", "trust"], cwd=project, env=environ, encoding="utf-8")
        person.expect("network_policy = egress")
        person.expect(r"\[y/N\] ")
        person.sendline(answer)
        said = person.read()
        person.close()
        return person.exitstatus, said

    refused = pyro("project", "trust")
    assert refused.returncode == 2
    assert "no terminal" in refused.stderr
    assert "not trusted" in pyro("project", "show", "src").stdout
    assert asked("")[0] == 130
    assert not json.loads(pyro("project", "show", "--json").stdout)["trusted"]
    code, said = asked("y")
    assert (code, "is trusted until" in said) == (0, True)
    assert json.loads(pyro("project", "show", "--json").stdout)["trusted"]
    file.write_text(file.read_text() + "# touched\n")
    assert not json.loads(pyro("project", "show", "--json").stdout)["trusted"]
    assert pyro("project", "trust", "--yes").returncode == 0
    assert json.loads(pyro("project", "trust", "--yes", "--json").stdout)["widens"] == ["network_policy = egress"]
    assert json.loads(pyro("project", "show", "--json").stdout)["trusted"]
    file.unlink()
    assert pyro("project", "trust", "--yes").returncode == 66
    assert "has no pyro.toml" in pyro("project", "show").stdout
