"""Real guests. Everything here boots QEMU with the real runtime and a real environment."""

from __future__ import annotations

import dataclasses
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyro_mcp.environments.runtime import ensure_runtime
from pyro_mcp.environments.store import EnvironmentStore
from pyro_mcp.machines.driver import GuestRuntime, Image, MachineSpec
from pyro_mcp.machines.qemu.command import BINARY
from pyro_mcp.machines.qemu.driver import QemuDriver, QemuMachine
from pyro_mcp.model.size import MachineSize
from pyro_mcp.protocol.channel import Channel
from pyro_mcp.settings import Settings
from pyro_mcp.system.progress import silent

pytestmark = pytest.mark.guest


@pytest.fixture(scope="session")
def runtime() -> GuestRuntime:
    built = ensure_runtime(Settings.load(), silent)
    return GuestRuntime(built.digest, built.kernel, built.initramfs, built.image)


@pytest.fixture(scope="session")
def environment() -> Image:
    image = EnvironmentStore(Settings.load()).ensure("debian:12", silent)
    return Image(image.digest, image.path)


@pytest.fixture(scope="session", params=["qemu", pytest.param("newer qemu", marks=pytest.mark.slow)])
def driver(request: pytest.FixtureRequest, cache_dir: Path) -> QemuDriver:
    binary = request.getfixturevalue("newer_qemu") if request.param == "newer qemu" else BINARY
    return QemuDriver(cache_dir, accelerator="tcg", binary=binary)


@pytest.fixture
def new_spec(tmp_path: Path, runtime: GuestRuntime, environment: Image) -> Callable[..., MachineSpec]:
    def make(**changes: int) -> MachineSpec:
        machine_id = f"vm-{uuid.uuid4().hex[:12]}"
        directory = tmp_path / machine_id
        directory.mkdir(mode=0o700)
        sizes = {"vcpu_count": 1, "mem_mib": 512, "scratch_mib": 1024, **changes}
        return MachineSpec(machine_id, directory, environment, runtime, MachineSize(**sizes))

    return make


@pytest.fixture
def launch(driver: QemuDriver, new_spec: Callable[..., MachineSpec]) -> Iterator[Callable[..., QemuMachine]]:
    """Launch machines that are ended with the test."""
    born: list[tuple[QemuMachine, Path]] = []

    def make(**changes: int) -> QemuMachine:
        spec = new_spec(**changes)
        machine = driver.launch(spec, silent)
        born.append((machine, spec.directory))
        return machine

    yield make
    for machine, directory in born:
        machine.terminate()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def launch_workspace(
    driver: QemuDriver, new_spec: Callable[..., MachineSpec], seed: Path, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """Launch a guest whose `configure` asks for a workspace."""
    machines: list[QemuMachine] = []

    def make(*, load: bool) -> QemuMachine:
        ask = Channel.call

        def call(self: Channel, verb: str, params: dict[str, Any], timeout: float | None = None) -> dict[str, Any]:
            extra = {"workspace": {"seed": True, "load": load}} if verb == "configure" else {}
            return ask(self, verb, {**params, **extra}, timeout)

        monkeypatch.setattr(Channel, "call", call)
        machine = driver.launch(dataclasses.replace(new_spec(), seed=seed), silent)
        monkeypatch.setattr(Channel, "call", ask)
        machines.append(machine)
        return machine

    yield make
    for machine in machines:
        machine.terminate()
