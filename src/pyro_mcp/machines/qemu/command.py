"""The QEMU command line: one place, so that a template and its children differ only where they must."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from pathlib import Path

from pyro_mcp.machines.driver import MachineSpec
from pyro_mcp.system.tsc import tsc_khz

BINARY = {"x86_64": "qemu-system-x86_64", "aarch64": "qemu-system-aarch64"}.get(
    platform.machine(), "qemu-system-x86_64"
)

COMMAND_VERSION = 4
"""Part of every template's identity: raise it when the machine a guest sees changes."""

DISK_BYTES = 256 * 1024**3
"""Virtual size of the seed and scratch disks. Constant, so that files can change hands behind a restored device;
sparse, so that it costs nothing."""

PROCESSOR = {"kvm": "host", "tcg": "max,-erms,-fsrm"}
"""Without "enhanced rep movsb" a guest copies memory in vectors, which emulation runs several times faster: 231 against
61 MB/s through two pipes. Linux takes "fast short rep movsb" to imply it: with the one alone a guest stops early under
QEMU 8 and later."""

TRANSLATIONS_MIB = 256
"""Bound of the guest code that QEMU keeps translated, outside the guest's memory."""
OVERHEAD_MIB = {"kvm": 64, "tcg": 128 + TRANSLATIONS_MIB}
"""What QEMU takes besides the guest's memory; under emulation 340 MiB were seen with all translations in use."""
ACCELERATOR = {"kvm": "kvm", "tcg": f"tcg,thread=multi,tb-size={TRANSLATIONS_MIB}"}

GUEST_HZ = 250
"""Timer ticks a second in the guest's kernel, Debian's."""

SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


@dataclass(frozen=True)
class Memory:
    """Guest RAM: a private anonymous block, or a file that is written (`share`) or mapped copy-on-write."""

    path: Path | None = None
    share: bool = False


@dataclass(frozen=True)
class Sockets:
    """Descriptors of listening Unix sockets that the VMM inherits."""

    agent: int
    monitor: int
    console: int


def build(
    spec: MachineSpec,
    *,
    accelerator: str,
    memory: Memory,
    sockets: Sockets,
    seed: Path,
    scratch: Path,
    exchange: Path,
    incoming: bool = False,
    binary: str = BINARY,
) -> list[str]:
    """The argument vector for `spec`. `accelerator` is `kvm` or `tcg`."""
    assert spec.runtime is not None
    assert spec.environment is not None
    return [
        binary,
        *("-name", f"pyro-{spec.machine_id},process=pyro-{spec.machine_id[:11]}"),
        *("-no-user-config", "-nodefaults", "-nographic", "-no-reboot"),
        *("-sandbox", SANDBOX),
        *("-M", "microvm,acpi=on,rtc=on,memory-backend=ram"),
        *("-accel", ACCELERATOR[accelerator]),
        *("-cpu", PROCESSOR[accelerator]),
        *("-smp", str(spec.size.vcpu_count)),
        *("-m", f"{spec.size.mem_mib}M"),
        *("-object", json.dumps(_memory(spec.size.mem_mib, memory))),
        *("-kernel", str(spec.runtime.kernel), "-initrd", str(spec.runtime.initramfs)),
        *("-append", kernel_parameters(accelerator)),
        *_port("monitor", sockets.monitor),
        *("-mon", "chardev=monitor,mode=control"),
        *_port("console", sockets.console),
        *("-serial", "chardev:console"),
        *("-device", "virtio-serial-device,max_ports=2"),
        *_port("agent", sockets.agent),
        *("-device", "virtserialport,chardev=agent,name=pyro.agent"),
        *_disk("runtime", spec.runtime.image, read_only=True),
        *_disk("environment", spec.environment.path, read_only=True),
        *_disk("seed", seed, read_only=True),
        *_disk("scratch", scratch, read_only=False),
        *_disk("exchange", exchange, read_only=False),
        *(("-incoming", "defer") if incoming else ()),
    ]


def kernel_parameters(accelerator: str) -> str:
    """The kernel command line. `quiet` halves the boot: each console byte is an exit from the guest.

    Under emulation: `norandmaps`, because QEMU 7 keeps translations by address, and would translate every program anew
    at every start. `tsc=reliable`, because a busy host makes the kernel distrust its only exact clock, and then count
    ticks, of which the host loses some. `lpj` spares it to measure its delay loop, which a busy host falsifies too.
    """
    words = ["console=ttyS0", "quiet", "panic=-1", "random.trust_cpu=on", "nowatchdog", "mitigations=auto"]
    if accelerator == "tcg":
        words.append("norandmaps")
        khz = tsc_khz()
        if khz is not None:
            words += [f"tsc_early_khz={khz}", f"lpj={khz * 1000 // GUEST_HZ}", "no_timer_check", "tsc=reliable"]
    return " ".join(words)


def _memory(mem_mib: int, memory: Memory) -> dict[str, object]:
    common: dict[str, object] = {"id": "ram", "size": mem_mib * 1024**2}
    if memory.path is None:
        return {"qom-type": "memory-backend-ram", **common}
    return {"qom-type": "memory-backend-file", **common, "mem-path": str(memory.path), "share": memory.share}


def _port(name: str, fd: int) -> tuple[str, str]:
    return "-chardev", f"socket,id={name},fd={fd},server=on,wait=off"


def _disk(name: str, path: Path, *, read_only: bool) -> tuple[str, ...]:
    """A raw disk. Format probing would let a guest that writes a QCOW2 header name host files.

    A write that the host refuses, say because its disk is full, stops the guest (`stall` refuses what is asked of it
    then, and lets it go on); what cannot be read is the guest's to handle.
    """
    node: dict[str, object] = {
        "driver": "raw",
        "node-name": name,
        "read-only": read_only,
        "discard": "unmap",
        "file": {"driver": "file", "filename": str(path), "read-only": read_only, "discard": "unmap"},
    }
    device = f"virtio-blk-device,drive={name},serial={name},werror=stop,rerror=report"
    return "-blockdev", json.dumps(node), "-device", device
