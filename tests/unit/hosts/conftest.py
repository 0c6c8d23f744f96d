"""A home of its own for each test, with stand-ins for the hosts' programs on PATH."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from pyro_mcp.hosts import catalog
from pyro_mcp.hosts.contract import ChatHost

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from hostlab import PROJECT_FILES, STANDINS, USER_FILES, where


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """HOME; the working directory is `project` below it."""
    home = tmp_path / "home"
    (home / "project").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    # What lies in the directory for temporary files does not last, and pytest's own lies in that.
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setenv("PATH", f"{STANDINS}{os.pathsep}{os.environ['PATH']}")
    for name in ("CLAUDE_CONFIG_DIR", "CODEX_HOME", "XDG_CONFIG_HOME", "STANDIN_REFUSES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(home / "project")
    return home


@pytest.fixture(params=tuple(catalog.CONNECTABLE))
def lab(request: pytest.FixtureRequest, home: Path) -> SimpleNamespace:
    """One host after the other: `host()` as seen now, its file at the user's scope, and how a file of others looks."""
    name: str = request.param
    file = home / USER_FILES[name]
    file.parent.mkdir(parents=True, exist_ok=True)

    def host() -> ChatHost:
        return catalog.host(name, where())

    return SimpleNamespace(name=name, host=host, file=file, project=Path.cwd() / PROJECT_FILES[name])
