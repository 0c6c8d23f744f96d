"""The real chat hosts, offline, in a home of their own, following a script: `make test-hosts`.

They are installed from npm into a cache, 1 GB together. Guests are real.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from scripted_model import ScriptedModel, Step

pytestmark = [pytest.mark.hosts, pytest.mark.guest]

VERSIONS = {"@anthropic-ai/claude-code": "2.1.329", "@openai/codex": "0.169.0", "opencode-ai": "1.18.33"}
PYRO = [sys.executable, "-m", "pyro_mcp"]
TURN_SECONDS = 400
FILES = {"claude-code": ".claude.json", "codex": ".codex/config.toml", "opencode": ".config/opencode/opencode.json"}


@pytest.fixture(scope="session")
def programs() -> Path:
    """The directory of the three programs."""
    if shutil.which("npm") is None:
        pytest.skip("no npm here")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pyro-test-hosts"
    cache.mkdir(parents=True, exist_ok=True)
    wanted = [f"{name}@{version}" for name, version in VERSIONS.items()]
    stamp = cache / "installed"
    if not stamp.exists() or stamp.read_text() != " ".join(wanted):
        command = ["npm", "install", "--prefix", str(cache), "--no-audit", "--no-fund", "--no-save", *wanted]
        subprocess.run(command, check=True, timeout=1800, stdin=subprocess.DEVNULL)
        stamp.write_text(" ".join(wanted))
    return cache / "node_modules" / ".bin"


def with_json(words: tuple[str, ...]) -> list[str]:
    at = words.index("--") if "--" in words else len(words)
    return [*words[:at], "--json", *words[at:]]


@dataclass
class HostLab:
    """One host in its own home: `cli` is pyro there, `turn` lets the model have its way."""

    name: str
    home: Path
    environ: dict[str, str]

    @property
    def project(self) -> Path:
        return self.home / "project"

    @property
    def file(self) -> Path:
        return self.home / FILES[self.name]

    def cli(self, *words: str, code: int = 0) -> Any:
        done = subprocess.run(
            [*PYRO, *with_json(words)], cwd=self.project, env=self.environ, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == code, done.stdout + done.stderr
        return json.loads(done.stdout)

    def options(self) -> list[str]:
        """The server finds the test's own node only so: a host need not pass variables on."""
        state, cache = self.environ["PYRO_STATE_DIR"], self.environ["PYRO_CACHE_DIR"]
        return ["--state-dir", state, "--cache-dir", cache]

    def start(self, model: ScriptedModel, *extra: str) -> subprocess.Popen[str]:
        """The host's program, without a person, for one turn."""
        environ, words = _program(self.name, model.url)
        return subprocess.Popen(
            [*words, *extra, "go"],
            cwd=self.project,
            env={**self.environ, **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def turn(self, steps: list[Step], *extra: str) -> ScriptedModel:
        with ScriptedModel(steps) as model:
            child = self.start(model, *extra)
            said, _ = child.communicate(timeout=TURN_SECONDS)
            assert child.returncode == 0, said
            assert len(model.answers) == len(steps), said
            return model


def _program(name: str, url: str) -> tuple[dict[str, str], list[str]]:
    if name == "codex":
        provider = f'model_providers.mock={{name="mock",base_url="{url}/v1",wire_api="responses"}}'
        settings = [provider, 'model_provider="mock"', 'model="m"']
        return {}, ["codex", "exec", "--skip-git-repo-check", "--json", *(x for one in settings for x in ("-c", one))]
    if name == "claude-code":
        # The wait for a server is 5 s, which is little where guests are emulated.
        environ = {"ANTHROPIC_BASE_URL": url, "ANTHROPIC_API_KEY": "none", "MCP_CONNECT_TIMEOUT_MS": "120000"}
        environ["CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC"] = "1"
        return environ, ["claude", "--allowedTools=mcp__pyro", "--verbose", "--output-format=stream-json", "-p"]
    provider_options = {"baseURL": f"{url}/v1", "apiKey": "none"}
    provider = {"npm": "@ai-sdk/openai-compatible", "options": provider_options, "models": {"m": {"tool_call": True}}}
    content = json.dumps({"provider": {"mock": provider}, "model": "mock/m"})
    return {"OPENCODE_CONFIG_CONTENT": content}, ["opencode", "run", "--format", "json"]


@pytest.fixture(params=list(FILES))
def lab(request: pytest.FixtureRequest, programs: Path, environ: dict[str, str]) -> Iterator[HostLab]:
    # Not below the directory for temporary files: Codex does not work from there.
    with tempfile.TemporaryDirectory(prefix="pyro-hosts-", dir=programs.parents[1]) as directory:
        home = Path(directory)
        (home / "project").mkdir()
        keep = {name: value for name, value in environ.items() if not name.startswith(("XDG_", "CODEX", "CLAUDE"))}
        path = f"{programs}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{environ['PATH']}"
        yield HostLab(request.param, home, {**keep, "HOME": str(home), "PATH": path})


def test_from_connect_to_disconnect(lab: HostLab) -> None:
    """Everything a person does with one host, in order."""
    assert lab.cli("host", "doctor", lab.name, code=1)["hosts"][0]["status"] == "not-connected"
    change = lab.cli("host", "connect", lab.name, *lab.options())["changes"][0]
    assert (change["action"], change["path"]) == ("added", str(lab.file))
    assert lab.cli("host", "connect", lab.name, *lab.options())["changes"][0]["action"] == "unchanged"

    model = lab.turn(
        [
            ("workspace_create", {"environment": "debian:12", "name": f"{lab.name}-trip"}),
            ("workspace_exec", {"workspace_id": f"{lab.name}-trip", "command": ["sh", "-c", "echo hi > f; uname -n"]}),
            ("workspace_diff", {"workspace_id": f"{lab.name}-trip"}),
        ]
    )
    assert any("workspace_create" in tool for tool in model.first_tools), model.first_tools
    created, ran, changed = model.answers
    assert '"state":"started"' in created.replace(" ", "")
    assert '"exit_code":0' in ran.replace(" ", "")
    assert "+hi" in changed
    lab.cli("workspace", "delete", f"{lab.name}-trip")

    report = lab.cli("host", "doctor", lab.name)["hosts"][0]
    assert report["status"] in ("ok", "slow"), report
    assert report["exit_seconds"] < 2
    whole = lab.file.read_text()
    lab.file.write_text(whole.replace('"serve"', '"srv"').replace("required = true", "required = false"))
    damaged = lab.cli("host", "doctor", lab.name, code=1)["hosts"][0]
    assert "drifted" in [problem["status"] for problem in damaged["problems"]]
    assert lab.cli("host", "repair", lab.name, *lab.options())["changes"][0]["action"] == "updated"
    assert lab.cli("host", "doctor", lab.name)["hosts"][0]["status"] in ("ok", "slow")
    assert lab.turn([("workspace_list", {})]).answers
    assert lab.cli("host", "disconnect", lab.name)["changes"][0]["action"] == "removed"
    assert lab.cli("host", "doctor", lab.name, code=1)["hosts"][0]["status"] == "not-connected"


def test_cancelled_in_the_middle_nothing_goes_on(lab: HostLab) -> None:
    """Ctrl-C in the host during a command ends it in the guest."""
    lab.cli("host", "connect", lab.name, *lab.options())
    name = f"{lab.name}-cancel"
    lab.cli("workspace", "create", "debian:12", "--name", name)
    line = "echo up > /workspace/up; exec sleep 987"
    command = {"workspace_id": name, "command": ["sh", "-c", line], "timeout_seconds": 900}
    with ScriptedModel([("workspace_exec", command)]) as model:
        child = lab.start(model)
        try:
            wait_in_guest(lab, name, "test -e /workspace/up")
            os.killpg(child.pid, signal.SIGINT)
            child.communicate(timeout=60)
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.communicate()
    wait_in_guest(lab, name, "! grep -qs 987 /proc/[0-9]*/cmdline")
    lab.cli("workspace", "delete", name)


def wait_in_guest(lab: HostLab, name: str, condition: str) -> None:
    """Until `condition` holds in the guest; the shell that asks does not name what it looks for."""
    script = f"until {condition.replace('987', '98[7]')}; do sleep 0.2; done"
    lab.cli("workspace", "exec", name, "--timeout-seconds", "120", "--", "sh", "-c", script)


def test_codex_asks_for_what_destroys_and_the_setting_allows_it(lab: HostLab) -> None:
    if lab.name != "codex":
        pytest.skip("only Codex refuses without a person")
    lab.cli("host", "connect", lab.name, *lab.options())
    lab.cli("workspace", "create", "debian:12", "--name", "codex-asks")
    delete = [("workspace_delete", {"workspace_id": "codex-asks"})]
    assert "requires approval" in lab.turn(delete).answers[0]
    asks = lab.cli("host", "doctor", "codex")["hosts"][0]["approvals"]["asks"]
    assert "workspace_delete" in asks
    with lab.file.open("a") as file:
        file.write('\n[mcp_servers.pyro.tools.workspace_delete]\napproval_mode = "approve"\n')
    assert '"deleted":true' in lab.turn(delete).answers[0].replace(" ", "")
    assert "workspace_delete" in lab.cli("host", "doctor", "codex")["hosts"][0]["approvals"]["unasked"]
    assert lab.cli("host", "repair", "codex", *lab.options())["changes"][0]["action"] == "unchanged"
