"""overlay: /workspace in a guest, the seed below and the scratch disk above.

The upper directory is reached by descriptors kept from before the root was changed: commands in the guest have no name
for it.
"""

from __future__ import annotations

import os
import stat
import threading
from typing import Any

from pyro_mcp.guest import disks
from pyro_mcp.guest.changes import Layers
from pyro_mcp.guest.durable import Durable
from pyro_mcp.guest.errors import AgentError
from pyro_mcp.guest.flow import Flow
from pyro_mcp.guest.pack import Packer
from pyro_mcp.guest.paths import WORKSPACE, Tree, failure
from pyro_mcp.guest.stage import listing, remove
from pyro_mcp.guest.steps import recover, settle
from pyro_mcp.guest.syscalls import MS_NOATIME, MS_RDONLY, mount, syncfs, unmount
from pyro_mcp.guest.unpack import Unpacker
from pyro_mcp.protocol.channel import Stream

SEED = "/run/pyro/seed"
OPAQUE = "trusted.overlay.opaque"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPTIONS = "redirect_dir=off,index=off,metacopy=off,xino=off"


class Overlay:
    """The guest's workspace. Until `mount` has run there is none."""

    def __init__(self) -> None:
        self.tree = Tree(WORKSPACE, Durable())
        self.mounted = False
        self.waiting = False
        """Whether `overlay_load` must come before the mount."""
        self._loading = threading.Lock()
        self._seed = False
        self._upper = -1
        self._lower = -1

    def prepare(self, *, seed: bool, load: bool) -> None:
        """What `configure` asks for: mount /workspace now, or after `overlay_load`."""
        base = disks.workspace_directory()
        for name, mode in ((b"upper", 0o755), (b"work", 0o700), (b"empty", 0o755)):
            try:
                os.mkdir(name, mode, dir_fd=base)
            except FileExistsError:
                pass
        self._upper = os.open(b"upper", _DIRECTORY, dir_fd=base)
        self._seed = seed
        self.waiting = load
        if load:
            self._empty()
        else:
            self.mount()

    def mount(self) -> None:
        """Lay the overlay over the seed, and keep the seed at hand as the baseline, out of the guest's sight."""
        base = disks.workspace_directory()
        own = f"/proc/self/fd/{base}"
        lower = f"{own}/empty"
        if self._seed:
            os.makedirs(SEED, exist_ok=True)
            seed = disks.find("seed")
            mount(seed, SEED, disks.file_system(seed), MS_RDONLY)
            lower = SEED
        self._lower = os.open(lower, _DIRECTORY)
        os.makedirs(WORKSPACE, exist_ok=True)
        where = f"lowerdir={lower},upperdir={own}/upper,workdir={own}/work,{_OPTIONS}"
        mount("overlay", os.fsdecode(WORKSPACE), "overlay", MS_NOATIME, where)
        if self._seed:
            unmount(SEED)
            os.rmdir(SEED)
        recover(self.tree)
        self.mounted, self.waiting = True, False

    def layers(self) -> Layers:
        """The upper directory against the seed."""
        return Layers(lambda: os.dup(self._upper), lambda: os.dup(self._lower), is_whiteout, is_opaque)

    def save(self, stream: Stream) -> dict[str, Any]:
        """→ the entries of the upper directory on DATA 1, with whiteouts and opaque marks; counts as of tree_pack.

        No other verb changes anything meanwhile, so it is all of every change or nothing of it.
        """
        flow = Flow(stream)
        try:
            packer = Packer(
                flow.send,
                flow.check,
                special=lambda status: "whiteout" if is_whiteout(status) else None,
                opaque=is_opaque,
            )
            with self.tree.turn(flow.check):
                settle(self.tree)
                packer.directory(self._upper)
            return packer.result()
        except OSError as error:
            raise failure("save", WORKSPACE, error) from None
        finally:
            flow.close()

    def load(self, stream: Stream) -> dict[str, Any]:
        """← entries as `overlay_save` made them, on DATA 0 → entry_count, bytes_written. Then /workspace is mounted.

        Only once, after `configure` with `load`. On failure nothing is kept and it may be tried again.
        """
        if not self._loading.acquire(blocking=False):
            raise AgentError("conflict", "cannot load: another load is under way")
        try:
            if not self.waiting:
                raise AgentError("conflict", "cannot load: this guest does not wait for a saved workspace")
            return self._load(stream)
        finally:
            self._loading.release()

    def _load(self, stream: Stream) -> dict[str, Any]:
        flow = Flow(stream)
        try:
            counts = Unpacker(self._upper, overlay=True).run(flow.pieces())
            syncfs(self._upper)
            self.mount()
            return counts
        except OSError as error:
            self._empty()
            raise failure("load", WORKSPACE, error) from None
        except AgentError:
            self._empty()
            raise
        finally:
            flow.close()

    def _empty(self) -> None:
        for name in listing(self._upper):
            remove(self._upper, name)


def is_whiteout(status: os.stat_result) -> bool:
    """Whether this is the overlay's mark for a name that is gone."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def is_opaque(fd: int) -> bool:
    """Whether the directory hides what lies below it."""
    try:
        return os.getxattr(f"/proc/self/fd/{fd}", OPAQUE) == b"y"
    except OSError:
        return False
