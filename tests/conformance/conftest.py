"""One corpus for every driver. A test asks for what it needs; a driver without it skips, and says why."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pyro_mcp.environments.runtime import ensure_runtime
from pyro_mcp.environments.store import EnvironmentStore
from pyro_mcp.machines.driver import Capabilities, Driver, GuestRuntime, Image, Machine, MachineSpec
from pyro_mcp.machines.host.driver import HostDriver
from pyro_mcp.machines.qemu.command import BINARY
from pyro_mcp.machines.qemu.driver import QemuDriver
from pyro_mcp.model.size import MachineSize
from pyro_mcp.protocol.channel import Data, StreamResult
from pyro_mcp.settings import Settings
from pyro_mcp.system.progress import silent


@dataclass(frozen=True)
class Outcome:
    """What an exec did: both streams, and the agent's result."""

    stdout: bytes
    stderr: bytes
    result: dict[str, Any]

    @property
    def exit_code(self) -> int:
        return int(self.result["exit_code"])


class Sandbox:
    """A machine of whichever driver, through its channel only."""

    def __init__(self, driver: Driver, machine: Machine, spec: MachineSpec) -> None:
        self.driver = driver
        self.machine = machine
        self.spec = spec

    @property
    def capabilities(self) -> Capabilities:
        return self.driver.capabilities

    def needs(self, capability: str) -> None:
        """Skip unless the driver declares `capability`."""
        if not getattr(self.capabilities, capability):
            pytest.skip(f"driver {self.driver.name} does not declare {capability}")

    def start(self, *argv: str, stdin: bool = False, **params: Any) -> Any:
        """An exec under way: its stream."""
        request = {"argv": list(argv), "env": {}, "timeout_seconds": 30, "stdin": stdin, **params}
        return self.machine.channel.open("exec", request)

    def finish(self, stream: Any) -> Outcome:
        """Read an exec to its end."""
        streams = {1: bytearray(), 2: bytearray()}
        for message in stream.messages():
            if isinstance(message, Data):
                streams[message.tag] += message.data
            elif isinstance(message, StreamResult):
                return Outcome(bytes(streams[1]), bytes(streams[2]), message.value)
        raise AssertionError("no result")

    def run(self, *argv: str, **params: Any) -> Outcome:
        return self.finish(self.start(*argv, **params))


@pytest.fixture(scope="session", params=["qemu", pytest.param("newer qemu", marks=pytest.mark.slow), "host"])
def driver(request: pytest.FixtureRequest) -> Driver:
    if request.param == "host":
        return HostDriver()
    cache = Settings.load().cache_dir
    binary = request.getfixturevalue("newer_qemu") if request.param == "newer qemu" else BINARY
    return QemuDriver(cache, accelerator="tcg", binary=binary)


@pytest.fixture(scope="module")
def sandbox(driver: Driver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """One machine for the tests of a module: each leaves it as it found it."""
    spec = make_spec(driver, tmp_path_factory.mktemp("machine"))
    machine = driver.launch(spec, silent)
    yield Sandbox(driver, machine, spec)
    machine.terminate()


def make_spec(driver: Driver, base: Path) -> MachineSpec:
    machine_id = f"vm-{uuid.uuid4().hex[:12]}"
    directory = base / machine_id
    directory.mkdir(mode=0o700)
    environment: Image | None = None
    runtime: GuestRuntime | None = None
    if driver.capabilities.own_kernel:
        settings = Settings.load()
        built = ensure_runtime(settings, silent)
        runtime = GuestRuntime(built.digest, built.kernel, built.initramfs, built.image)
        image = EnvironmentStore(settings).ensure("debian:12", silent)
        environment = Image(image.digest, image.path)
    return MachineSpec(machine_id, directory, environment, runtime, MachineSize(1, 512, 1024))
