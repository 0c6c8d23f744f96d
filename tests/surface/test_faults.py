"""What goes wrong on the host: each ends in one clear error with its documented code, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PYRO = [sys.executable, "-m", "pyro_mcp"]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="makes mounts")


def pyro(environ: dict[str, str], *words: str, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*prefix, *PYRO, *words], env=environ, capture_output=True, text=True, timeout=120)


@pytest.fixture
def small_state(tmp_path: Path, environ: dict[str, str]) -> Iterator[dict[str, str]]:
    """A state directory on a file system of 6 MiB."""
    mount = tmp_path / "small"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(mount)], check=True)
    environ = {**environ, "PYRO_STATE_DIR": str(mount / "state")}
    yield environ
    pyro(environ, "node", "stop", "--force")
    subprocess.run(["umount", "--lazy", str(mount)], check=True)


@needs_root
def test_a_full_disk_is_named_and_nothing_is_left(small_state: dict[str, str]) -> None:
    state = Path(small_state["PYRO_STATE_DIR"])
    assert pyro(small_state, "run", "debian:12", "--", "true").returncode == 0
    (state.parent / "filler").write_bytes(bytes(shutil.disk_usage(state.parent).free - 64 * 1024))
    refused = pyro(small_state, "run", "--json", "debian:12", "--", "true")
    error = json.loads(refused.stdout)["error"]
    assert (refused.returncode, error["code"]) == (74, "disk_full")
    assert error["hint"]
    assert list((state / "machines").iterdir()) == []
    (state.parent / "filler").unlink()
    assert pyro(small_state, "run", "debian:12", "--", "true").returncode == 0


@needs_root
def test_a_guest_that_fills_the_hosts_disk_gets_an_error_and_not_a_freeze(small_state: dict[str, str]) -> None:
    line = "dd if=/dev/urandom of=/root/big bs=1M count=64 conv=fsync"
    done = pyro(small_state, "run", "--timeout-seconds", "60", "debian:12", "--", "sh", "-c", line)
    assert done.returncode not in (0, 124), done
    assert "error" in done.stderr.lower()
    assert pyro(small_state, "run", "debian:12", "--", "true").returncode == 0


@needs_root
def test_a_missing_qemu_is_named_with_its_package(environ: dict[str, str]) -> None:
    qemu = shutil.which("qemu-system-x86_64")
    # One of an earlier test sees this host as it is.
    pyro(environ, "node", "stop", "--force")
    hide = ("unshare", "--mount", "sh", "-c", f'mount --bind /dev/null {qemu} && exec "$@"', "sh")
    done = pyro(environ, "run", "debian:12", "--", "true", prefix=hide)
    pyro(environ, "node", "stop", "--force")
    assert done.returncode == 72
    assert "qemu-system-x86_64 is not installed" in done.stderr
    assert "apt-get install qemu-system-x86" in done.stderr


@needs_root
def test_a_state_directory_of_somebody_else_is_refused(environ: dict[str, str], tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o700)
    tmp_path.chmod(0o755)
    environ = {**environ, "PYRO_STATE_DIR": str(locked / "state"), "HOME": "/nonexistent"}
    drop = "import os, sys; os.setgid(65534); os.setuid(65534); "
    code = drop + "from pyro_mcp.surfaces.cli.main import main; sys.exit(main(sys.argv[1:]))"
    python = next((path for path in (sys.executable, "/usr/bin/python3") if anybody_may_run(path)), None)
    if python is None:
        pytest.skip("every interpreter here lies where only root may look")
    environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    words = [python, "-c", code, "run", "debian:12", "--", "true"]
    done = subprocess.run(words, env=environ, capture_output=True, text=True, cwd="/")
    assert done.returncode == 77
    assert "cannot" in done.stderr


def anybody_may_run(python: str) -> bool:
    real = Path(python).resolve()
    same = real.name.startswith(f"python{sys.version_info.major}.{sys.version_info.minor}")
    return real.exists() and same and all(parent.stat().st_mode & 0o001 for parent in real.parents)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["run", "debian:99", "--", "true"], 66),
        (["run", "--no-such-flag", "debian:12", "--", "true"], 2),
        (["run", "--vcpu-count", "0", "debian:12", "--", "true"], 2),
        (["run", "--mem-mib", "999999999", "debian:12", "--", "true"], 2),
        (["run", "--mem-mib", "1000000", "debian:12", "--", "true"], 75),
        (["run", "--timeout-seconds", "-1", "debian:12", "--", "true"], 2),
        (["run", "--allow-host", "example.com", "debian:12", "--", "true"], 2),
        (["run", "debian:12"], 2),
        (["env", "inspect", "../../etc"], 2),
        (["frobnicate"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_has_its_code_and_a_remedy(environ: dict[str, str], words: list[str], code: int) -> None:
    done = pyro(environ, *words)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) <= 8
    assert "Traceback" not in done.stderr
