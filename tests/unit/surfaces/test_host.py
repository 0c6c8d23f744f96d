"""`pyro host` on the command line: the options of `mcp serve` are known to it once, and answers are one document."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pyro_mcp.errors import InvalidArgument
from pyro_mcp.surfaces.cli import serve
from pyro_mcp.surfaces.cli.parser import parse

STANDINS = Path(__file__).parents[1] / "hosts" / "standins"


def run(home: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    home.mkdir(exist_ok=True)
    others = ("PYRO_", "XDG_", "CODEX_", "SSL_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    environ = {**kept, "HOME": str(home), "PATH": f"{STANDINS}{os.pathsep}{os.environ['PATH']}", **variables}
    command = [sys.executable, "-m", "pyro_mcp", "host", *words]
    return subprocess.run(command, cwd=home, env=environ, capture_output=True, text=True, timeout=120)


def document(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_options_of_serve_go_into_the_entry_whatever_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each option, read back from what is written of it."""
    monkeypatch.chdir("/usr")
    given = ["--profile", "vm-run", "--allow-host-compat", "--host-path", "lib", "--host-path", "/opt"]
    given += ["--environment", "debian:12", "--project-path", "lib", "--repo-url", "https://example.com/r.git"]
    given += ["--repo-ref", "main", "--no-project-source", "--state-dir", "share", "--cache-dir", "/c"]
    options = {action.option_strings[-1] for action in serve._parser()._actions}
    assert options == {word for word in given if word.startswith("--")}, "tell this test of new options"
    words = serve.words(parse(["host", "connect", "codex", *given]))
    assert words == (
        *("--profile", "vm-run", "--allow-host-compat", "--host-path", "/usr/lib", "--host-path", "/opt"),
        *("--environment", "debian:12", "--project-path", "/usr/lib", "--repo-url", "https://example.com/r.git"),
        *("--repo-ref", "main", "--no-project-source", "--state-dir", "/usr/share", "--cache-dir", "/c"),
    )
    assert serve.read_words(words) == words
    assert serve.words(parse(["mcp", "serve", *given])) == words
    assert serve.words(parse(["host", "connect", "codex"])) == ()
    for wrong in (["--no-such-option"], ["--profile", "none"], ["surplus"], ["--environment"]):
        with pytest.raises(InvalidArgument, match=wrong[-1]):
            serve.read_words(wrong)


def test_from_connect_to_disconnect_in_json(tmp_path: Path) -> None:
    home = tmp_path / "home"
    change = document(run(home, "connect", "codex", "--json", "--profile", "vm-run"))["changes"][0]
    assert (change["action"], change["scope"]) == ("added", "user")
    assert change["command"][-2:] == ["--profile", "vm-run"]
    report = document(run(home, "doctor", "codex", "--json"))
    assert (report["ok"], report["hosts"][0]["tool_count"]) == (True, 1)
    assert document(run(home, "disconnect", "codex", "--json"))["changes"][0]["action"] == "removed"
    done = run(home, "doctor", "codex", "--json")
    assert (done.returncode, document(done)["hosts"][0]["status"]) == (1, "not-connected")
    assert run(home, "doctor").returncode == 0


def test_for_a_person_the_diff_is_shown(tmp_path: Path) -> None:
    done = run(tmp_path / "home", "connect", "opencode")
    assert done.returncode == 0, done.stderr
    assert '+    "pyro": {' in done.stdout
    assert "opencode: the entry pyro is added to" in done.stdout


def test_settings_that_a_host_does_not_pass_on_are_told(tmp_path: Path) -> None:
    done = run(tmp_path / "home", "connect", "codex", PYRO_STATE_DIR=str(tmp_path / "state"))
    assert "note: state_dir: set by this shell's environment" in done.stdout
    done = run(tmp_path / "home", "connect", "codex", "--state-dir", str(tmp_path), PYRO_STATE_DIR=str(tmp_path))
    assert "state_dir: set" not in done.stdout
    assert str(tmp_path) in (tmp_path / "home" / ".codex" / "config.toml").read_text()


def test_settings_that_make_no_sense_are_told_before_anything_is_written(tmp_path: Path) -> None:
    done = run(tmp_path / "home", "connect", "codex", PYRO_MAX_MACHINES="many")
    assert done.returncode == 2
    assert not (tmp_path / "home" / ".codex").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--repo-ref", "v1"], "no --repo-url"),
        (["--project-path", "/nonexist"], "no such directory"),
        (["--project-path", "/usr", "--repo-url", "https://example.com/r"], "two projects"),
        (["--repo-url", "ext::x"], "no URL that is fetched"),
    ],
)
def test_an_entry_that_could_never_start_is_not_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: list[str], told: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{STANDINS}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CODEX_HOME", raising=False)
    target = tmp_path / "given"
    for command in (["connect", "codex"], ["repair", "codex"], ["print-config", "cursor", "--output", str(target)]):
        namespace = parse(["host", *command, *options])
        with pytest.raises(InvalidArgument, match=told):
            namespace.handler(namespace)
    assert not (tmp_path / ".codex").exists()
    assert not target.exists()


def test_print_config_prints_the_entry_alone(tmp_path: Path) -> None:
    done = run(tmp_path / "home", "print-config", "opencode")
    assert json.loads(done.stdout)["mcp"]["pyro"]["type"] == "local"
    assert "opencode.json" in done.stderr
    target = tmp_path / "mcp.json"
    target.write_text('{\n  // mine\n  "servers": {}\n}\n')
    assert run(tmp_path / "home", "print-config", "vscode", "--output", str(target)).returncode == 0
    assert "// mine" in target.read_text()
    assert '"type": "stdio"' in target.read_text()


@pytest.mark.parametrize("target", ["/", "."])
def test_print_config_into_a_directory_says_so(tmp_path: Path, target: str) -> None:
    done = run(tmp_path / "home", "print-config", "cursor", "--output", target, "--json")
    assert "it is a directory" in document(done)["error"]["message"]


def test_errors_have_a_code_and_say_what_to_do(tmp_path: Path) -> None:
    home = tmp_path / "home"
    done = run(home, "connect", "cursor", "--json")
    assert (done.returncode, document(done)["error"]["code"]) == (2, "invalid_argument")
    assert "print-config cursor" in document(done)["error"]["hint"]
    (home / ".codex").mkdir(parents=True)
    (home / ".codex" / "config.toml").write_text("[broken\n")
    done = run(home, "connect", "codex")
    assert done.returncode == 2
    assert "config.toml" in done.stderr
    assert "line 1" in done.stderr
    assert (home / ".codex" / "config.toml").read_text() == "[broken\n"


def test_it_starts_without_the_mcp_library() -> None:
    code = "import sys; from pyro_mcp.surfaces.cli.parser import parse; parse(['host', 'doctor'])\n"
    code += "import pyro_mcp.hosts.doctor, pyro_mcp.hosts.catalog\n"
    code += "print('mcp' in sys.modules, 'tomlkit' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["False", "False"]
