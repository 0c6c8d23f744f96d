"""The first guest of a size takes long: every surface says why, and that it goes on."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyro_mcp import Pyro
from pyro_mcp.system import progress as module
from pyro_mcp.system.progress import ticking

REASON = "Starting the first machine of this size (1 vCPU, {} MiB); later ones start in a fraction of a second"


@pytest.fixture
def fresh(environ: dict[str, str], cache_dir: Path) -> Iterator[dict[str, str]]:
    """A cache that holds everything but frozen guests."""
    with tempfile.TemporaryDirectory(prefix="pyro-first-") as directory:
        cache = Path(directory) / "cache"
        cache.mkdir()
        for made in ("environments", "runtime", "packages", "kvm.json"):
            if (cache_dir / made).exists():
                (cache / made).symlink_to(cache_dir / made)
        values = {**environ, "PYRO_CACHE_DIR": str(cache), "PYRO_STATE_DIR": f"{directory}/state"}
        yield values
        stop = [sys.executable, "-m", "pyro_mcp", "node", "stop", "--force"]
        subprocess.run(stop, env=values, check=True, capture_output=True, timeout=60)


def test_the_first_run_says_why_it_takes_long_and_the_second_nothing(fresh: dict[str, str]) -> None:
    argv = [sys.executable, "-m", "pyro_mcp", "run", "--json", "--mem-mib", "384", "debian:12", "--", "true"]
    first = subprocess.run(argv, env=fresh, capture_output=True, text=True, timeout=300)
    assert json.loads(first.stdout)["exit_code"] == 0
    assert first.stderr.count(REASON.format(384)) == 1, "a pipe hears it once"
    assert "frozen" not in first.stderr
    second = subprocess.run(argv, env=fresh, capture_output=True, text=True, timeout=300)
    assert json.loads(second.stdout)["exit_code"] == 0
    assert "first machine" not in second.stderr


def test_the_sdk_hears_the_reason_and_the_stages(fresh: dict[str, str]) -> None:
    heard: list[str] = []
    paths = {"state_dir": fresh["PYRO_STATE_DIR"], "cache_dir": fresh["PYRO_CACHE_DIR"]}
    with Pyro(**paths, on_progress=lambda message, _: heard.append(message)) as pyro:  # type: ignore[arg-type]
        made = pyro.create_workspace(environment="debian:12", mem_mib=385)
        stages = [REASON.format(385), "Keeping a copy of it for later ones"]
        assert [message for message in heard if message in stages] == stages
        heard.clear()
        pyro.stop_workspace(made.workspace_id)
        pyro.start_workspace(made.workspace_id)
    stages[0] = stages[0].replace(";", " on a disk that was in use before;")
    assert [message for message in heard if message in stages] == stages


def test_long_work_says_how_long_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TICK_SECONDS", 0.05)
    heard: list[str] = []
    often = threading.Event()

    def hear(message: str, fraction: float | None) -> None:
        heard.append(message)
        if len(heard) == 3:
            often.set()

    with ticking(hear, "Booting"):
        assert often.wait(20)
    assert heard[:3] == ["Booting", "Booting (0 s)", "Booting (0 s)"]
