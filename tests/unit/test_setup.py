"""`scripts/setup.sh` makes `.venv` with the Python that is asked for, and says why where it cannot."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROBE = "import sys, ensurepip, venv; print(*sys.version_info[:2], sep='.'); sys.exit(sys.version_info < (3, 11))"


def another_python() -> str | None:
    """A Python that would do and is not of this version, on PATH or beside this one."""
    found = [shutil.which(f"python3.{minor}") for minor in (11, 12, 13)]
    base = Path(sys.base_prefix).parent
    found += [str(path) for path in sorted(base.glob("3.1[123]*/bin/python3")) if base.name == "versions"]
    own = f"{sys.version_info[0]}.{sys.version_info[1]}"
    return next((path for path in found if path and version(path) not in (None, own)), None)


def version(python: str) -> str | None:
    done = subprocess.run([python, "-c", PROBE], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what is needed to set it up."""
    listed = subprocess.check_output(
        ["git", "ls-files", "-z", "scripts", "src", "*.toml", "*.lock", "*.md", "LICENSE"], cwd=ROOT
    )
    for name in listed.decode().rstrip("\0").split("\0"):
        target = tmp_path / "checkout" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target)
    if (ROOT / ".uv" / "bin").exists():
        (tmp_path / "checkout" / ".uv").symlink_to(ROOT / ".uv")
    return tmp_path / "checkout"


def set_up(checkout: Path, python: str | None) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if name not in ("PYTHON", "VIRTUAL_ENV")}
    return subprocess.run(
        [checkout / "scripts" / "setup.sh"],
        env={**environ, **({"PYTHON": python} if python else {})},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_one_that_cannot_be_used_is_named(checkout: Path) -> None:
    done = set_up(checkout, "/bin/true-python")
    assert done.returncode == 1
    assert done.stderr == "setup: PYTHON=/bin/true-python is no Python 3.11 or later that can make a venv\n"
    assert not (checkout / ".venv").exists()


@pytest.mark.slow
def test_the_python_that_is_asked_for_is_used_and_kept(checkout: Path) -> None:
    other = another_python()
    if other is None:
        pytest.skip("this host has no second Python 3.11 to 3.13")
    assert set_up(checkout, sys.executable).returncode == 0
    assert version(str(checkout / ".venv/bin/python")) == version(sys.executable)
    for python in (other, None):
        done = set_up(checkout, python)
        assert done.returncode == 0, done.stderr
        assert version(str(checkout / ".venv/bin/python")) == version(other)
    probe = [checkout / ".venv/bin/pyro", "--version"]
    assert subprocess.run(probe, capture_output=True, check=True).stdout.startswith(b"pyro ")
