"""The guest runtime, built for real from the archive once per test run (about 8 s), then changed and damaged."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pyro_mcp.environments import packages as packages_module
from pyro_mcp.environments import runtime as runtime_module
from pyro_mcp.environments.runtime import ensure_runtime, find_runtime
from pyro_mcp.settings import Settings


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    base = tmp_path_factory.mktemp("runtime")
    settings = dataclasses.replace(Settings.load(), cache_dir=base / "cache")
    said: list[float] = []
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: ensure_runtime(settings, lambda m, f: said.append(f or 0)), range(2))
    assert first == second
    return settings


@pytest.fixture
def settings(built: Settings, tmp_path: Path) -> Settings:
    """The built cache, copied, so that a test may damage it."""
    shutil.copytree(built.cache_dir, tmp_path / "cache", symlinks=True)
    return dataclasses.replace(built, cache_dir=tmp_path / "cache")


def test_it_is_complete_and_names_its_versions(built: Settings) -> None:
    runtime = ensure_runtime(built)
    assert runtime.kernel.read_bytes()[:4] == b"\x7fELF"
    assert runtime.kernel_version.endswith("cloud-amd64")
    assert runtime.initramfs.read_bytes()[:6] == b"070701"
    assert runtime.image.stat().st_size % 512 == 0
    assert {"busybox-static", "python3.11-minimal"} <= set(runtime.versions)
    assert f"linux-image-{runtime.kernel_version}" in runtime.versions
    assert not list(built.cache_dir.glob("*/.build*"))


def test_the_second_time_costs_nothing(built: Settings) -> None:
    ensure_runtime(built)
    begin = time.perf_counter()
    ensure_runtime(built)
    assert time.perf_counter() - begin < 0.05


def test_its_python_runs_the_agent_without_any_userland(built: Settings, tmp_path: Path) -> None:
    runtime = ensure_runtime(built)
    tree = tmp_path / "tree"
    subprocess.run(["fsck.erofs", f"--extract={tree}", runtime.image], check=True, capture_output=True)
    interpreter = [
        tree / "lib/ld.so",
        "--inhibit-cache",
        "--library-path",
        tree / "lib",
        "--argv0",
        tree / "bin/python3",
    ]
    probe = "import sys; sys.path.insert(0, sys.argv[1]); import pyro_mcp.guest.boot.init, lzma, ctypes"
    argv = [*map(str, interpreter), str(tree / "bin/python3"), "-I", "-S", "-c", probe, str(tree / "agent")]
    finished = subprocess.run(argv, capture_output=True, text=True, env={}, check=False)
    assert finished.returncode == 0, finished.stderr
    assert list((tree / "agent/pyro_mcp/guest/boot/__pycache__").glob("init.*.pyc"))
    assert not list((tree / "lib").rglob("*.py"))


def test_a_changed_agent_is_repacked_without_the_archive(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = ensure_runtime(settings)
    source = tmp_path / "source"
    shutil.copytree(runtime_module._SOURCE, source, ignore=shutil.ignore_patterns("__pycache__"))
    (source / "guest" / "exec.py").write_text('"""Another agent."""\n')
    monkeypatch.setattr(runtime_module, "_SOURCE", source)
    monkeypatch.setattr(packages_module, "bootstrap", pytest.fail)
    assert find_runtime(settings) is None
    after = ensure_runtime(settings)
    assert after.digest != before.digest
    assert after.image.read_bytes() != before.image.read_bytes()
    assert before.image.exists()


@pytest.mark.parametrize("name", ["kernel", "initramfs", "image.erofs"])
def test_a_damaged_runtime_is_built_again(settings: Settings, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages_module, "bootstrap", pytest.fail)
    runtime = ensure_runtime(settings)
    damaged = runtime.image.parent / name
    good = damaged.read_bytes()
    os.truncate(damaged, len(good) // 2)
    assert find_runtime(settings) is None
    again = ensure_runtime(settings)
    assert again.digest == runtime.digest
    assert damaged.read_bytes() == good


def test_damaged_packages_are_not_used(settings: Settings) -> None:
    packages = packages_module.current_packages(settings)
    assert packages is not None
    os.truncate(packages.python, 1000)
    assert packages_module.current_packages(settings) is None
    assert find_runtime(settings) is None
