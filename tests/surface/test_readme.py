"""What the README shows is what happens: every `pyro` line and every Python block is run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


COMMANDS = [line[2:] for block in blocks("console") for line in block.splitlines() if line.startswith("$ ")]
PYRO = [line for line in COMMANDS if "pyro" in line]


def on_path(environ: dict[str, str]) -> dict[str, str]:
    return {**environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{environ['PATH']}"}


def test_every_command_in_turn_does_what_it_says(environ: dict[str, str]) -> None:
    assert len(PYRO) > 10
    for line in PYRO:
        command, _, comment = line.partition("    #")
        promised = re.search(r"exit code (\d+)", comment)
        words = ["bash", "-c", command]
        done = subprocess.run(words, env=on_path(environ), cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert done.returncode == (int(promised[1]) if promised else 0), f"{line}: {done.stderr}"


EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs(path: Path, environ: dict[str, str]) -> None:
    done = subprocess.run([sys.executable, str(path)], env=environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("source", blocks("python"))
def test_a_program_runs(source: str, environ: dict[str, str]) -> None:
    done = subprocess.run([sys.executable, "-c", source], env=environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "git version" in done.stdout


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = [line.split()[1] for line in COMMANDS if line.startswith("make ")]
    assert named == ["demo", "test"]
    assert set(named) <= set(targets)
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_the_servers_entry_is_json_that_starts_pyro() -> None:
    (entry,) = [json.loads(block) for block in blocks("json")]
    assert entry["mcpServers"]["pyro"]["command"] == "pyro"
