"""A public corpus on a seeded /workspace: the tests of CPython that are about files, from Debian's own package."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pyro_mcp.environments.store import EnvironmentStore
from pyro_mcp.machines.driver import Image
from pyro_mcp.machines.qemu.command import DISK_BYTES
from pyro_mcp.settings import Settings
from pyro_mcp.system.progress import silent

from .workspacelab import talk

pytestmark = [pytest.mark.guest, pytest.mark.slow]

PACKAGE = "libpython3.11-testsuite"
NAMES = "os posix shutil tempfile pathlib glob fcntl mmap filecmp fileio stat genericpath posixpath dbm_dumb fnmatch"
FAILING: dict[str, str] = {}
"""What fails here and not on a tmpfs of the same guest, and why."""


@pytest.fixture(scope="session")
def environment() -> Image:
    image = EnvironmentStore(Settings.load()).ensure("debian:12-build", silent)
    return Image(image.digest, image.path)


@pytest.fixture
def seed(tmp_path: Path) -> Path:
    subprocess.run(["apt-get", "download", PACKAGE], check=True, capture_output=True, cwd=tmp_path)
    (package,) = tmp_path.glob(f"{PACKAGE}_*.deb")
    tree, image = tmp_path / "tree", tmp_path / "seed.image"
    subprocess.run(["dpkg-deb", "-x", package, tree], check=True)
    subprocess.run(["mkfs.erofs", "--all-root", image, tree], check=True, capture_output=True)
    os.truncate(image, DISK_BYTES)
    return image


def test_cpythons_tests_of_files_hold(launch_workspace: Any) -> None:
    machine = launch_workspace(load=False)
    # Debian keeps what the tests lean on beside the library; they are moved there, across file systems.
    run(machine, "cp -rn usr/lib/python3.11/test /usr/lib/python3.11/; mkdir /dev/shm/tmp tmp")
    elsewhere, here = (failures(machine, where) for where in ("/dev/shm/tmp", "/workspace/tmp"))
    print(f"also on a tmpfs: {sorted(elsewhere)}")
    assert here - elsewhere == set(FAILING)


def failures(machine: Any, where: str) -> set[str]:
    tests = " ".join(f"test.test_{name}" for name in NAMES.split())
    said = run(
        machine, f"cd {where}; TMPDIR={where} python3 -m unittest -v {tests} 2>&1 | tee log | tail -c 60000; true"
    )
    assert re.search(r"^Ran [1-9]\d{3} tests", said, re.MULTILINE), said[-2000:]
    return set(re.findall(r"^(?:FAIL|ERROR): (\w+ \(\S+\))", said, re.MULTILINE))


def run(machine: Any, line: str) -> str:
    output = talk(machine.channel, "exec", {"argv": ["sh", "-c", line], "timeout_seconds": 3600})[1]
    return output.decode("utf-8", "replace")
