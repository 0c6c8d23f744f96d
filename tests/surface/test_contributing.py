"""What CONTRIBUTING tells whoever comes next is so, and what a forge and an editor are told fits it."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path

import pages
import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "CONTRIBUTING.md"
TEXT = PAGE.read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
GITHUB = ROOT / ".github"
TEMPLATES = [GITHUB / "pull_request_template.md", *sorted((GITHUB / "ISSUE_TEMPLATE").glob("[!c]*.yml"))]
PATHS = sorted(set(re.findall(r"`([\w./-]+/[\w./-]*)`", TEXT)) - {".venv"})
SECONDS = 280
AHEAD = ("hosts",)


def test_its_commands_do_what_it_says(environ: dict[str, str], tmp_path: Path) -> None:
    steps = [pages.Step(f"cd {shlex.quote(str(ROOT))}", "", 0), *pages.steps(PAGE)]
    outcomes = pages.run(steps, tmp_path, environ, SECONDS)
    for outcome in outcomes:
        assert outcome.matches(), f"$ {outcome.step.command}\n{outcome.stdout}{outcome.stderr}[{outcome.exit_code}]"
    assert len(outcomes) == len(steps) > 6


def missing(path: str) -> bool:
    places = [ROOT, ROOT / "src" / "pyro_mcp"]
    named = path.replace("<noun>s", "*").replace("<noun>", "*").replace("<name>", "*").rstrip("/")
    return not any(list(place.glob(named)) for place in places)


def test_every_path_that_it_names_is_there() -> None:
    assert len(PATHS) > 15
    assert [path for path in PATHS if missing(path)] == []


def test_the_targets_it_names_are_in_the_makefile() -> None:
    named = set(re.findall(r"\bmake ([a-z-]+)`", TEXT))
    assert {"check", "test", "test-slow"} <= named <= set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))


def test_ci_runs_ci_run_on_each_python_that_is_promised() -> None:
    workflow = (GITHUB / "workflows" / "ci.yml").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    promised = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    (matrix,) = re.findall(r"^ +python: (\[.*\])$", workflow, re.MULTILINE)
    assert json.loads(matrix) == promised
    assert re.search(r"^ +- run: \.ci/run$", workflow, re.MULTILINE)
    assert re.search(r"^ +PYTHON: python\$\{\{ matrix\.python \}\}$", workflow, re.MULTILINE)


def test_a_commit_is_asked_what_make_check_asks_by_nothing_that_is_downloaded() -> None:
    config = (ROOT / ".pre-commit-config.yaml").read_text()
    assert re.findall(r"repo: (.*)", config) == ["local"]
    entries = re.findall(r"entry: (.*)", config)
    assert config.count("language: system") == len(entries) == config.count("- id:")
    recipe = MAKEFILE.partition("\ncheck:")[2].partition("\n\n")[0]
    asked = [line.strip().replace("$(BIN)", ".venv/bin").removesuffix(" .") for line in recipe.splitlines()[1:]]
    assert [entry.replace(" --force-exclude", "") for entry in entries] == asked


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_a_template_asks_what_the_host_is_like(path: Path) -> None:
    assert "`pyro doctor --json`" in path.read_text()


def test_a_report_of_a_bug_needs_the_doctor() -> None:
    asked = (GITHUB / "ISSUE_TEMPLATE" / "bug.yml").read_text().split("  - type: ")
    (doctor,) = [part for part in asked if "id: doctor" in part]
    assert "required: true" in doctor


def test_the_devcontainer_sets_itself_up_as_everybody_does() -> None:
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert container["postCreateCommand"] == "make setup"
    assert container["remoteEnv"]["PATH"].startswith("${containerWorkspaceFolder}/.venv/bin:")
    assert "--privileged" in container["runArgs"]
