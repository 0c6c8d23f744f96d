"""The driver contract: a driver provisions a machine and returns one channel to the agent inside.

Everything else (commands, files, shells) is the agent's. What a driver cannot promise it declares as a missing
capability; nothing above ever asks which driver it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pyro_mcp.model.size import MachineSize
from pyro_mcp.protocol.channel import Channel, Handler
from pyro_mcp.system.progress import Progress


@dataclass(frozen=True)
class Capabilities:
    """What a driver's machines promise. `isolation` is the tier that results report.

    `overlay`: a workspace is laid over its seed, so the seed is a disk that nothing inside can change, and a snapshot
    holds what has changed; without it, the workspace is a plain directory, and a snapshot a copy of it. `network`: what
    is inside reaches nothing but through its `NetworkLink`, and without one nothing at all; where it is missing, what
    runs has the host's network. `seed_bytes` is the size that the file of a seed disk must have, `overhead_mib` what a
    machine takes of the host's memory besides its own.
    """

    isolation: str
    execution_mode: str
    own_kernel: bool
    restores: bool
    memory_bound: bool
    overlay: bool
    network: bool
    seed_bytes: int = 0
    overhead_mib: int = 0


@dataclass(frozen=True)
class Image:
    """A read-only disk image by content digest."""

    digest: str
    path: Path


@dataclass(frozen=True)
class GuestRuntime:
    """What every guest boots: kernel, initramfs, and the image with the agent and its Python."""

    digest: str
    kernel: Path
    initramfs: Path
    image: Path


@dataclass(frozen=True)
class WorkspaceMount:
    """That a machine shall have a workspace directory. With `load` it stays out of the way until `overlay_load`."""

    load: bool = False


@dataclass(frozen=True)
class NetworkLink:
    """A machine's way out: `handler` answers the streams that the guest opens, on every channel to it. `ca` are
    certificates in PEM form that the guest shall trust; `ipv6` says that the host has a way to IPv6 addresses."""

    handler: Handler
    ca: bytes | None = None
    ipv6: bool = False


@dataclass(frozen=True)
class MachineSpec:
    """A machine to provision. `directory` is its own, mode 0700, made by the caller and removed by the caller.

    `seed` is what the workspace starts with: a read-only image for a driver with `overlay`, else a directory.
    Without `network` there is no way out.
    """

    machine_id: str
    directory: Path
    environment: Image | None
    runtime: GuestRuntime | None
    size: MachineSize
    seed: Path | None = None
    workspace: WorkspaceMount | None = None
    network: NetworkLink | None = None


class Machine(Protocol):
    """A live machine. Its channel may end (machine died, wire broken); `on_exit` reports the death itself."""

    machine_id: str
    capabilities: Capabilities
    channel: Channel

    @property
    def pid(self) -> int: ...

    def alive(self) -> bool: ...

    def on_exit(self, callback: Callable[[], None]) -> None:
        """Call `callback` once when the machine's process is gone, at once if it is."""

    def terminate(self) -> None:
        """End the machine now and wait until its process is gone. Idempotent."""

    def console_tail(self) -> str:
        """The bounded, printable end of the console, for error messages. Untrusted."""


class Ahead(Protocol):
    """A machine that was made ahead: up, and nobody's until its driver hands it out."""

    @property
    def pid(self) -> int: ...

    def warm(self, enough: Callable[[], bool]) -> None:
        """Bring it up, and until `enough` make it run what a new machine runs first. Raises `MachineFailed`."""

    def on_exit(self, callback: Callable[[], None]) -> None:
        """Call `callback` once when its process is gone, at once if it is."""

    def terminate(self) -> None:
        """End it now and wait until its process is gone. Idempotent, and safe beside `warm`, which then fails."""


class Preparer(Protocol):
    """Makes machines ahead, and hands them out."""

    def kind(self, spec: MachineSpec) -> str | None:
        """What a machine made ahead must be of to become `spec`; None when none can: because of what stands in the
        machine's directory, or for want of anything to restore one from. Raises `OSError` or `MissingDependency`."""

    def prepare(self, spec: MachineSpec, kind: str) -> Ahead | None:
        """A machine ahead of that kind, begun and not yet warm; None when `spec` is not of that kind any more. Raises
        what `launch` raises."""

    def hand_out(self, ahead: Any, spec: MachineSpec) -> Machine:
        """Make a warm machine that of `spec`, into whose directory its own was moved: clock, randomness, names, seed
        and network as for one that is launched. On failure it is ended. Raises what `launch` raises."""


class Driver(Protocol):
    """Makes machines of one kind. `preparer` is None where none can be made ahead."""

    name: str
    capabilities: Capabilities
    preparer: Preparer | None

    def launch(self, spec: MachineSpec, progress: Progress) -> Machine:
        """Boot or restore a machine, configured and answering. On failure nothing of it is left running.

        Raises `MachineFailed`, `MissingDependency`, `DiskFull`, `TimedOut`, or the host's own `OSError`.
        """

    def adopt(self, machine_id: str, directory: Path, network: NetworkLink | None = None) -> Machine | None:
        """The live machine that an earlier node left in `directory`, reconnected; None if it is dead or not ours.
        `network` is the way out that it had."""
