"""A user without subordinate ids, or without what makes namespaces: doctor and pull say so, and nothing is left."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="becomes other users")

NOBODY = 64999
"""A user id that no host gives to anybody."""
SOURCE = "from pyro_mcp.surfaces.cli.main import main; import sys; sys.exit(main(sys.argv[1:]))"


def anybodys_python() -> str:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for path in (sys.executable, "/usr/bin/python3"):
        real = Path(path).resolve()
        if real.name.startswith(version) and all(parent.stat().st_mode & 0o001 for parent in real.parents):
            return path
    pytest.skip("every interpreter here lies where only root may look")


@pytest.fixture
def home(short_tmp: Path) -> Path:
    short_tmp.chmod(0o755)
    path = short_tmp / "home"
    path.mkdir()
    os.chown(path, NOBODY, NOBODY)
    return path


@pytest.fixture
def pyro(home: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    environ = {
        "HOME": str(home),
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    python = anybodys_python()

    def run(*words: str, before: str = ":") -> subprocess.CompletedProcess[str]:
        drop = f'exec setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups "$@"'
        argv = ["unshare", "--mount", "sh", "-c", f"{before}; {drop}", "sh", python, "-c", SOURCE, *words]
        return subprocess.run(argv, env=environ, cwd="/", capture_output=True, text=True, timeout=120)

    yield run
    run("node", "stop", "--force")


HIDDEN = f"mount --bind /dev/null {shutil.which('newuidmap') or '/usr/bin/newuidmap'}"
CAUSES = [
    (":", 77, "/etc/subuid has no range of ids for 64999", "usermod --add-subuids"),
    (HIDDEN, 77, "newuidmap is not installed", "apt-get install uidmap"),
    (f"mount --bind /dev/null {shutil.which('unshare')}", 72, "unshare", "apt-get install util-linux"),
]


@pytest.mark.parametrize(
    ("before", "code", "cause", "remedy"), CAUSES, ids=["no subordinate ids", "no newuidmap", "no unshare"]
)
def test_pull_and_doctor_say_the_same_and_nothing_is_left(
    pyro: Callable[..., subprocess.CompletedProcess[str]], home: Path, before: str, code: int, cause: str, remedy: str
) -> None:
    done = pyro("env", "pull", "debian:12", "--json", before=before)
    assert done.returncode == code, done
    error = json.loads(done.stdout)["error"]
    assert cause in error["message"]
    assert remedy in error["hint"]
    assert [path for path in home.rglob("*") if ".build" in path.name] == []
    told = pyro("doctor", "--json", before=before)
    report = json.loads(told.stdout)
    assert told.returncode == 1
    assert not report["ready"]
    checks = [check for check in report["checks"] if check["status"] == "missing"]
    assert any(cause.split(" is ", maxsplit=1)[0] in f"{check['name']} {check['detail']}" for check in checks), checks
    assert any(remedy in (check["remedy"] or "") for check in checks)
