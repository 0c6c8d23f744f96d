"""The QEMU driver: a `microvm` under KVM where that is proved, under software emulation everywhere else."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import functools
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pyro_mcp.errors import DiskFull, MachineFailed, MissingDependency, PyroError
from pyro_mcp.machines import exchange, template
from pyro_mcp.machines.disks import blank_device, new_scratch
from pyro_mcp.machines.driver import Capabilities, MachineSpec, NetworkLink, Preparer
from pyro_mcp.machines.qemu import vmm
from pyro_mcp.machines.qemu.ahead import QemuAhead, put_seed
from pyro_mcp.machines.qemu.command import (
    BINARY,
    COMMAND_VERSION,
    DISK_BYTES,
    OVERHEAD_MIB,
    Memory,
    Sockets,
    build,
    kernel_parameters,
)
from pyro_mcp.machines.qemu.greeting import ADOPT_SECONDS, ANSWER_SECONDS, TOKEN, dial, greet_adopted
from pyro_mcp.machines.qemu.stall import StallWatch, ended_by_stall
from pyro_mcp.machines.qemu.state import WrongClock, load_state, save_state, wait_ready
from pyro_mcp.machines.qemu.vmm import Vmm
from pyro_mcp.machines.template import Template, TemplateKind, TemplateStore, memory_of
from pyro_mcp.model.agent_verbs import refused_in_words
from pyro_mcp.protocol.channel import Channel, ChannelClosed, RemoteError, StreamResult
from pyro_mcp.system.atomic import disk_errors
from pyro_mcp.system.process import run
from pyro_mcp.system.progress import Progress, ticking
from pyro_mcp.system.sparse import copy_sparse

BOOT_SECONDS = {"kvm": 30.0, "tcg": 120.0}
"""How long a cold boot may take before it is given up; an emulated one on a busy host needs many seconds."""
SCRATCH = "scratch.ext4"
SIZES = "Take a size that was used before, or name a cache that may be written with PYRO_CACHE_DIR"
USED_HINT = "what was left on its disk is in the way; <<reset_workspace>> gives a workspace a new disk"
CLOCK_TRIES = 3
FIRST = "Starting the first machine of this size ({}); later ones start in a fraction of a second"


class _Hindered(MachineFailed):
    """The guest woke, and could not become this machine with what it found on its disk."""


class QemuDriver:
    """Makes machines with `accelerator` `kvm` or `tcg`."""

    name = "qemu"

    def __init__(
        self,
        cache_dir: Path,
        *,
        accelerator: str,
        boot_seconds: float | None = None,
        spare_dir: Path | None = None,
        binary: str = BINARY,
    ) -> None:
        """`spare_dir` takes what the cache cannot where that may not be written."""
        self._spare_dir = spare_dir or cache_dir
        self._boot_seconds = boot_seconds or BOOT_SECONDS[accelerator]
        self._cache_dir = cache_dir
        self._accelerator = accelerator
        self._binary = binary
        self._templates = TemplateStore(cache_dir, kill_orphan=vmm.kill_orphan)
        self.preparer: Preparer | None = self
        self.capabilities = Capabilities(
            isolation="kvm-qemu" if accelerator == "kvm" else "emulated",
            execution_mode="guest",
            own_kernel=True,
            restores=True,
            memory_bound=True,
            overlay=True,
            network=True,
            seed_bytes=DISK_BYTES,
            overhead_mib=OVERHEAD_MIB[accelerator],
        )

    def launch(self, spec: MachineSpec, progress: Progress) -> QemuMachine:
        """A configured machine, restored from its kind's template, which is made first if there is none.

        A scratch disk that stands in the machine's directory is kept; otherwise the machine gets a fresh one.
        """
        frozen = self._template(spec, progress)
        used = (spec.directory / SCRATCH).exists()
        try:
            return self._restore(spec, frozen)
        except MachineFailed as error:
            if used and isinstance(error, _Hindered):
                # Its user may have brought that about, and the template is everybody's.
                raise MachineFailed(error.message, hint=USED_HINT) from None
            # Sound by its digests and yet it does not run: say, an upgraded library under the same QEMU version.
            self._templates.discard(frozen)
            progress("The machine that was kept did not restore; starting a new one", None)
            return self._restore(spec, self._template(spec, progress))

    def boot(self, spec: MachineSpec, *, mortal: bool = False) -> QemuMachine:
        """A configured machine booted cold, without a template. A `mortal` one dies with the calling thread."""
        scratch = spec.directory / SCRATCH
        if not scratch.exists():
            new_scratch(self._cache_dir, scratch, spec.size.scratch_mib, device_bytes=DISK_BYTES)
        process = self._spawn(spec, scratch, Memory(), mortal=mortal)
        return self._configured(spec, process, self._boot_seconds)

    def adopt(self, machine_id: str, directory: Path, network: NetworkLink | None = None) -> QemuMachine | None:
        process = vmm.adopt(directory)
        if process is None:
            return None
        try:
            channel = greet_adopted(process, network)
        except MachineFailed:
            process.terminate()
            return None
        return QemuMachine(machine_id, self.capabilities, process, channel)

    # -- ahead

    def kind(self, spec: MachineSpec) -> str | None:
        if (spec.directory / SCRATCH).exists():
            return None
        kind = self._kind(spec)
        found = self._templates.get(kind)
        # One that was built again in its place is another.
        return None if found is None else f"{kind.digest} {found.stamp}"

    def prepare(self, spec: MachineSpec, kind: str) -> QemuAhead | None:
        frozen = self._templates.get(self._kind(spec))
        if frozen is None or self.kind(spec) != kind:
            return None
        scratch = spec.directory / SCRATCH
        with disk_errors("make a scratch disk"):
            copy_sparse(frozen.scratch, scratch)
        process = self._spawn(spec, scratch, Memory(memory_of(frozen, self._spare_dir)), incoming=True)
        with _ended_on_failure(process):
            return QemuAhead(process, dial(process, None), frozen.state)

    def hand_out(self, ahead: QemuAhead, spec: MachineSpec) -> QemuMachine:
        with _ended_on_failure(ahead.process, channel=ahead.channel):
            ahead.process.directory = spec.directory
            # Before the watch, which keeps the one monitor.
            if spec.seed is not None:
                put_seed(ahead.process, spec.seed)
            # It may have been stopped while it waited, and goes on if there is room by now.
            StallWatch(ahead.process, ahead.channel, spec.directory)
            # One that hangs is found out in less time than a request may take.
            ahead.channel.ping(ADOPT_SECONDS)
            if spec.network is not None:
                ahead.channel.answer(spec.network.handler)
            return self._identified(spec, ahead.process, ahead.channel)

    # -- provisioning

    def _restore(self, spec: MachineSpec, frozen: Template) -> QemuMachine:
        scratch = spec.directory / SCRATCH
        fresh = not scratch.exists()
        if fresh:
            with disk_errors("make a scratch disk"):
                # Under another name: half a disk would be taken for one that was used.
                copy_sparse(frozen.scratch, _emptied(spec.directory / f"{SCRATCH}.new"))
                os.rename(spec.directory / f"{SCRATCH}.new", scratch)
        try:
            return self._load(spec, scratch, frozen)
        except (MachineFailed, DiskFull):
            if fresh:
                scratch.unlink()
            raise

    def _load(self, spec: MachineSpec, scratch: Path, frozen: Template) -> QemuMachine:
        process = self._spawn(spec, scratch, Memory(memory_of(frozen, self._spare_dir)), incoming=True)
        return self._configured(spec, process, ANSWER_SECONDS, frozen.state)

    def _configured(self, spec: MachineSpec, process: Vmm, seconds: float, state: Path | None = None) -> QemuMachine:
        """Wake the guest, from the frozen `state` if given, and make it this machine. On failure it is ended."""
        with _ended_on_failure(process):
            # Said before the guest wakes, our hello waits at its port, and one waking serves for both.
            channel = dial(process, spec.network)
            if state is not None:
                load_state(process, state)
            channel.start(seconds)
        with _ended_on_failure(process, _Hindered, channel):
            StallWatch(process, channel, spec.directory)
            return self._identified(spec, process, channel)

    def _identified(self, spec: MachineSpec, process: Vmm, channel: Channel) -> QemuMachine:
        machine = QemuMachine(spec.machine_id, self.capabilities, process, channel)
        _configure(spec, channel)
        if spec.network is not None:
            _raise_network(spec.network, channel)
        return machine

    def _spawn(
        self, spec: MachineSpec, scratch: Path, memory: Memory, *, incoming: bool = False, mortal: bool = False
    ) -> Vmm:
        def command(sockets: Sockets) -> list[str]:
            return build(
                spec,
                accelerator=self._accelerator,
                memory=memory,
                sockets=sockets,
                seed=spec.seed or blank_device(self._cache_dir, DISK_BYTES),
                scratch=scratch,
                exchange=exchange.make(spec.directory),
                incoming=incoming,
                binary=self._binary,
            )

        return vmm.spawn(spec.directory, command, mortal=mortal)

    # -- templates

    def _template(self, spec: MachineSpec, progress: Progress) -> Template:
        kind = self._kind(spec)
        found = self._templates.get(kind)
        if found is not None:
            return found
        size = _size(spec)
        tries = 0
        while True:
            tries += 1
            try:
                with disk_errors(f"start the first machine of a size ({size})", refused=SIZES):
                    return self._templates.build(
                        kind, lambda directory: self._freeze(spec, kind.scratch_mib, directory, progress), progress
                    )
            except WrongClock:
                if tries == CLOCK_TRIES:
                    raise
                progress("Its clock loses time; starting another", None)

    def _kind(self, spec: MachineSpec) -> TemplateKind:
        assert spec.environment is not None
        assert spec.runtime is not None
        return TemplateKind(
            environment=spec.environment.digest,
            runtime=spec.runtime.digest,
            vcpu_count=spec.size.vcpu_count,
            mem_mib=spec.size.mem_mib,
            driver=self.name,
            accelerator=self._accelerator,
            vmm_version=qemu_version(self._binary),
            command=f"{COMMAND_VERSION} {kernel_parameters(self._accelerator)}",
            cpu_model=_cpu_model(),
            scratch_mib=0 if (spec.directory / SCRATCH).exists() else spec.size.scratch_mib,
        )

    def _freeze(self, spec: MachineSpec, scratch_mib: int, directory: Path, progress: Progress) -> None:
        """Boot, wait until the agent is ready to serve, and write RAM and device state into `directory`."""
        scratch = directory / template.SCRATCH
        if scratch_mib:
            new_scratch(self._cache_dir, scratch, scratch_mib, device_bytes=DISK_BYTES)
        else:
            copy_sparse(blank_device(self._cache_dir, DISK_BYTES), scratch)
        placeholder = dataclasses.replace(spec, machine_id="template", directory=directory, seed=None)
        process = self._spawn(placeholder, scratch, Memory(directory / template.RAM, share=True), mortal=True)
        try:
            with ended_by_stall(process, directory), ticking(progress, FIRST.format(_size(spec))):
                wait_ready(process, self._boot_seconds)
            progress("Keeping a copy of it for later ones", 0.9)
            save_state(process, directory / template.STATE)
        except WrongClock:
            raise
        except MachineFailed as error:
            raise _explain(error, process) from None
        finally:
            process.terminate()
        for leftover in (exchange.NAME, vmm.AGENT, vmm.MONITOR, vmm.CONSOLE, vmm.IDENTITY, vmm.LOG):
            (directory / leftover).unlink(missing_ok=True)


def _size(spec: MachineSpec) -> str:
    return f"{spec.size.vcpu_count} vCPU, {spec.size.mem_mib} MiB"


class QemuMachine:
    """A live QEMU guest and the channel to its agent."""

    def __init__(self, machine_id: str, capabilities: Capabilities, process: Vmm, channel: Channel) -> None:
        self.machine_id = machine_id
        self.capabilities = capabilities
        self.channel = channel
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    def alive(self) -> bool:
        return self._process.alive()

    def on_exit(self, callback: Callable[[], None]) -> None:
        self._process.on_exit(callback)

    def terminate(self) -> None:
        self._process.terminate()

    def console_tail(self) -> str:
        return self._process.console_tail()


@functools.cache
def qemu_version(binary: str = BINARY) -> str:
    """The version line of the installed QEMU. Raises `MissingDependency`."""
    if shutil.which(binary) is None:
        raise MissingDependency(
            f"cannot start a guest: {binary} is not installed", hint="apt-get install qemu-system-x86"
        )
    return run([binary, "--version"]).stdout.splitlines()[0]


@functools.cache
def _cpu_model() -> str:
    """`-cpu host` and `-cpu max` follow the host's processor, so a template may not move to another one."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def _emptied(path: Path) -> Path:
    path.unlink(missing_ok=True)
    return path


def _raise_network(network: NetworkLink, channel: Channel) -> None:
    """Give the guest its way out, before any user command."""
    ca = network.ca or b""
    stream = channel.open("network_up", {"ipv6": network.ipv6, "ca_size": len(ca)})
    stream.send(ca)
    stream.end()
    deadline = time.monotonic() + ANSWER_SECONDS
    while not isinstance(stream.receive(max(0.0, deadline - time.monotonic())), StreamResult):
        pass


def _configure(spec: MachineSpec, channel: Channel) -> None:
    """Give the guest its own clock, randomness, names and disks, before any user command."""
    token = secrets.token_hex(16)
    descriptor = os.open(spec.directory / TOKEN, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(token)
    channel.call(
        "configure",
        {
            "time_ns": time.time_ns(),
            "entropy": base64.b64encode(secrets.token_bytes(64)).decode(),
            "hostname": spec.machine_id,
            "machine_id": secrets.token_hex(16),
            "token": token,
            "scratch": True,
            "seed": spec.seed is not None,
            **_workspace(spec),
        },
        timeout=ANSWER_SECONDS,
    )


def _workspace(spec: MachineSpec) -> dict[str, object]:
    if spec.workspace is None:
        return {}
    return {"workspace": {"seed": spec.seed is not None, "load": spec.workspace.load}}


@contextlib.contextmanager
def _ended_on_failure(
    process: Vmm, kind: type[MachineFailed] = MachineFailed, channel: Channel | None = None
) -> Iterator[None]:
    """End `process` on any error of the block; what the guest or QEMU brought about is raised as `kind`."""
    try:
        yield
    except (MachineFailed, ChannelClosed, RemoteError, TimeoutError) as error:
        refusal = channel.standstill.refusal if channel else None
        process.terminate()
        if refusal is not None:
            raise PyroError.from_wire(refusal) from None
        raise _explain(error, process, kind) from None
    except BaseException:
        process.terminate()
        raise


def _explain(error: Exception, process: Vmm, kind: type[MachineFailed] = MachineFailed) -> MachineFailed:
    words = process.console_tail()
    hint = f"its console ends with:\n{words}" if words else "run <<diagnose>> to check this host"
    return kind(f"cannot start the guest: {refused_in_words(str(error))}", hint=hint)
