"""Which driver makes the next machine: the strongest isolation that this host has proved."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from pyro_mcp.errors import IsolationUnavailable, MissingDependency
from pyro_mcp.machines.driver import Driver, GuestRuntime, Image, MachineSpec
from pyro_mcp.machines.host.driver import HostDriver
from pyro_mcp.machines.preflight import Verdict, kvm_verdict, remembered_verdict
from pyro_mcp.machines.qemu.command import BINARY
from pyro_mcp.machines.qemu.driver import QemuDriver
from pyro_mcp.machines.qemu.vmm import kill_orphan
from pyro_mcp.model.size import MachineSize
from pyro_mcp.settings import Settings
from pyro_mcp.system.process import find_program

PROBE_MEM_MIB = 256

Notice = Callable[[str], None]


class DriverCatalog:
    """The drivers of one node. Each is made once, so that what it has verified stays verified."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._reported = False
        self._drivers: dict[str, Driver] = {
            "tcg": QemuDriver(settings.cache_dir, accelerator="tcg", spare_dir=settings.state_dir),
            "kvm": QemuDriver(settings.cache_dir, accelerator="kvm", spare_dir=settings.state_dir),
            "host": HostDriver(),
        }

    def require_guest(self) -> None:
        """Raises `MissingDependency` when no guest can be made here, before anybody pulls an environment for one."""
        if find_program(BINARY) is None:
            raise MissingDependency(
                f"cannot start a guest: {BINARY} is not installed",
                hint="Install it: apt-get install qemu-system-x86. Or allow the bare host:"
                " <<create_workspace.allow_host_compat>>",
            )

    def guest(self, environment: Image, runtime: GuestRuntime, notice: Notice) -> Driver:
        """The driver for a guest. `notice` gets one line, once in a node's life, when KVM had to be passed over.

        Raises `IsolationUnavailable` when KVM is required and unusable, `MissingDependency` without QEMU.
        """
        self.require_guest()
        verdict = self.verdict(environment, runtime)
        if verdict.usable:
            return self._drivers["kvm"]
        if self._settings.require_isolation == "kvm":
            raise IsolationUnavailable(
                f"cannot start a guest: PYRO_REQUIRE_ISOLATION=kvm, and KVM is not usable here: {verdict.reason}",
                hint=f"{verdict.remedy}. If nobody asks for KVM any more: `pyro node stop` ends the node that was"
                " started with that",
            )
        if not self._reported:
            self._reported = True
            notice(f"KVM is not usable here ({verdict.reason}); using software emulation, which is slower")
        return self._drivers["tcg"]

    def likely(self) -> Driver:
        """The driver that the next guest gets, as far as that is known without booting anything."""
        if find_program(BINARY) is None:
            return self._drivers["host"]
        known = remembered_verdict(self._settings.cache_dir)
        return self._drivers["kvm" if known is None or known.usable else "tcg"]

    def host(self) -> Driver:
        """The driver of `host_compat`: no isolation, only ever by explicit choice."""
        return self._drivers["host"]

    def by_isolation(self, isolation: str) -> Driver:
        """The driver whose machines report `isolation`, for adopting one."""
        return next(driver for driver in self._drivers.values() if driver.capabilities.isolation == isolation)

    def verdict(self, environment: Image, runtime: GuestRuntime) -> Verdict:
        """Whether KVM is usable, proved by a guest of `environment` if nobody has asked since the host booted."""

        def boot(seconds: float) -> None:
            cache, state = self._settings.cache_dir, self._settings.state_dir
            # One node at a time lives here, and asks once: these are of nodes that were killed.
            for left in state.glob("probe-*"):
                kill_orphan(left)
                shutil.rmtree(left, ignore_errors=True)
            directory = Path(tempfile.mkdtemp(prefix="probe-", dir=state))
            try:
                spec = MachineSpec("probe", directory, environment, runtime, MachineSize(1, PROBE_MEM_MIB, 64))
                QemuDriver(cache, accelerator="kvm", boot_seconds=seconds).boot(spec, mortal=True).terminate()
            finally:
                shutil.rmtree(directory, ignore_errors=True)

        return kvm_verdict(self._settings.cache_dir, boot)
