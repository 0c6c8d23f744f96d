"""Shared fixtures: images are built once per cache and shared by all tests; state is fresh for each test."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from pyro_mcp.settings import Settings

PROC = Path("/proc")

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
