"""What docs/install.md says puts `pyro` on the PATH does: in a shell that has nothing but that and the system."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.guest, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
SYSTEM = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
COMMANDS = re.findall(r"`((?:uv tool|pipx) install [^`]+)`", (ROOT / "docs" / "install.md").read_text())
UV = str(ROOT / "scripts" / "uv.sh")
STANDS_FOR = {"uv": [UV], "pipx": [UV, "tool", "run", "--quiet", "pipx"]}
"""This host may have neither: both come as `make setup` gets its uv."""


def test_the_page_names_two_ways() -> None:
    assert COMMANDS == ["uv tool install .", "pipx install ."]
    assert "$ scripts/uv.sh tool install ." in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_installed_is_on_the_path_and_runs_a_guest(command: str, short_tmp: Path, cache_dir: Path) -> None:
    home = short_tmp / "home"
    home.mkdir()
    # The installer may know where to get packages, and which Python to take.
    passed = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "UV_", "SSL_"))}
    python = {"UV_PYTHON": sys.executable, "PIPX_DEFAULT_PYTHON": sys.executable}
    install = {**passed, **python, "HOME": str(home), "PATH": f"{Path(sys.executable).parent}:{SYSTEM}"}
    installer, *words = command.split()
    subprocess.run([*STANDS_FOR[installer], *words], cwd=ROOT, env=install, check=True, timeout=600)
    bare = {"HOME": str(home), "PATH": f"{home}/.local/bin:{SYSTEM}", "PYRO_CACHE_DIR": str(cache_dir)}
    try:
        where = run(bare, "command -v pyro; pyro --version")
        assert where.stdout.splitlines()[0] == f"{home}/.local/bin/pyro"
        assert run(bare, "pyro run debian:12 -- uname -s").stdout == "Linux\n"
        assert (home / ".local/state/pyro/node.log").exists()
    finally:
        run(bare, "pyro node stop --force")


def run(environ: dict[str, str], line: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(["sh", "-c", line], env=environ, cwd="/", capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done
