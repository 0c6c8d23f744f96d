"""Shared fixtures: images are built once per cache and shared by all tests; state is fresh for each test."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from pyro_mcp.environments.archive import host_proxies, host_sources
from pyro_mcp.environments.bootstrap import SUITE
from pyro_mcp.machines.qemu.command import BINARY
from pyro_mcp.settings import Settings
from pyro_mcp.system.locks import locked

PROC = Path("/proc")
BACKPORTS = f"{SUITE}-backports"
PACKAGE = "qemu-system-x86"

# Tests count processes and memory. Those of the pool switch it on.
os.environ["PYRO_POOL_SIZE"] = "0"

# How long an example takes tells how busy the host is, and nothing of what is tested.
hypothesis.settings.register_profile(
    "busy host", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("busy host")

# Under `nohup`, or behind a script's `&`, some signals come ignored. The tests stay deaf to them, but what they start
# must not: a handler is not inherited. SIGINT is Python's own, which a test sends.
for _number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:
    if signal.getsignal(_number) is signal.SIG_IGN:
        _is_interrupt = _number == signal.SIGINT
        signal.signal(_number, signal.default_int_handler if _is_interrupt else lambda number, frame: None)
signal.pthread_sigmask(signal.SIG_SETMASK, ())


@pytest.fixture(scope="session")
def cache_dir() -> Path:
    """The user's image cache: content-addressed and verified, so sharing it with tests is safe and saves minutes."""
    return Settings.load().cache_dir


@pytest.fixture
def settings(tmp_path: Path, cache_dir: Path) -> Settings:
    """Settings with a state directory of this test's own."""
    return dataclasses.replace(Settings.load(), state_dir=tmp_path / "state", cache_dir=cache_dir, idle_seconds=60.0)


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    """A directory outside pytest's, for tests that fill or unmount it."""
    path = Path(tempfile.mkdtemp(prefix="pyro-test-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


def processes_mentioning(text: str) -> list[int]:
    """Pids whose command line or working directory mentions `text`."""
    found = []
    for entry in PROC.iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            words = (entry / "cmdline").read_bytes().decode("utf-8", "replace")
            if text in words or text in os.readlink(entry / "cwd"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


@pytest.fixture(scope="session")
def newer_qemu(cache_dir: Path) -> str:
    """The program of a newer QEMU, from Debian's backports: fetched once per cache, unpacked apart, installed nowhere.
    Skips where the archive cannot be had."""
    home = cache_dir / "newer-qemu"
    with locked(cache_dir / "newer-qemu.lock"):
        if not home.exists():
            work = Path(tempfile.mkdtemp(prefix="newer-qemu.tmp-", dir=cache_dir))
            try:
                _unpack_qemu(work)
                os.rename(work / "root", home)
            finally:
                shutil.rmtree(work)
    return str(home / "usr" / "bin" / BINARY)


def _unpack_qemu(work: Path) -> None:
    release = [line.split() for line in host_sources(SUITE) if line.split()[2] == SUITE]
    if not release:
        pytest.skip(f"this host has no mirror of {SUITE}, and so none of {BACKPORTS}")
    sources = [f"deb {release[0][1]} {suite} main\n" for suite in (SUITE, BACKPORTS)]
    (work / "sources.list").write_text("".join(sources))
    for name in ("lists/partial", "archives/partial", "root"):
        (work / name).mkdir(parents=True)
    places = {
        "Dir::State::lists": work / "lists",
        "Dir::Cache": work,
        "Dir::Etc::sourcelist": work / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Debug::NoLocking": "1",
        "APT::Sandbox::User": "",
    }
    apt = ["apt-get", *(f"-o{name}={value}" for name, value in places.items())]
    apt += [f"-o{proxy.replace(' ', '=', 1).replace(chr(34), '')}" for proxy in host_proxies()]
    for command in (
        ["update"],
        ["install", "--yes", "--download-only", "--no-install-recommends", f"--target-release={BACKPORTS}", PACKAGE],
    ):
        done = subprocess.run([*apt, *command], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"cannot get {PACKAGE} of {BACKPORTS}: {done.stderr.strip()[-300:]}")
    for package in (work / "archives").glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", package, work / "root"], check=True)
