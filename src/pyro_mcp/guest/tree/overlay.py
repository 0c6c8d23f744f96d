"""overlay: /workspace in a guest, the seed below and the scratch disk above.

The upper directory is reached by descriptors kept from before the root was changed: commands in the guest have no name
for it.
"""

from __future__ import annotations

import os
import stat
import threading
from typing import Any

from pyro_mcp.guest.boot import disks
from pyro_mcp.guest.errors import AgentError
from pyro_mcp.guest.flow import Flow
from pyro_mcp.guest.syscalls import MS_NOATIME, MS_RDONLY, mount, syncfs, unmount
from pyro_mcp.guest.tree.fsync_policy import DurableSync
from pyro_mcp.guest.tree.layers import HardLinks, Layers, Upper
from pyro_mcp.guest.tree.mounts import require_none
from pyro_mcp.guest.tree.pack import Packer
from pyro_mcp.guest.tree.paths import WORKSPACE, Tree, failure
from pyro_mcp.guest.tree.stage import listing, remove
from pyro_mcp.guest.tree.transaction import recover, retry_rollback
from pyro_mcp.guest.tree.unpack import Unpacker
from pyro_mcp.protocol.channel import Stream

SEED = "/run/pyro/seed"
OUT_OF_PLACE = (
    "Undo it in a shell that is opened elsewhere: <<open_shell>> with <<open_shell.cwd=/>>; or stop the workspace and"
    " start it again, which keeps all files, or reset it"
)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Overlay:
    """The guest's workspace. Until `mount` has run there is none."""

    def __init__(self) -> None:
        self.tree = Tree(WORKSPACE, DurableSync())
        self.mounted = False
        self.waiting = False
        """Whether `overlay_load` must come before the mount."""
        self._loading = threading.Lock()
        self._seed = False
        self._upper = -1
        self._lower = -1
        self._root = -1

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
        self._links = HardLinks(self._lower, self._index)
        _make_place()
        where = f"lowerdir={lower},upperdir={own}/upper,workdir={own}/work,{disks.OVERLAY}"
        mount("overlay", os.fsdecode(WORKSPACE), "overlay", MS_NOATIME, where)
        if self._seed:
            unmount(SEED)
            os.rmdir(SEED)
        # Kept open, it cannot be unmounted by mistake: umount says that it is busy.
        self._root = os.open(WORKSPACE, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        recover(self.tree)
        self.mounted, self.waiting = True, False

    def require_in_place(self, verb: str) -> None:
        """Raise `AgentError` while commands would find something else at /workspace than the verbs mean."""
        if not self.mounted:
            return
        try:
            there = os.path.samestat(os.stat(WORKSPACE, follow_symlinks=False), os.fstat(self._root))
        except FileNotFoundError:
            there = False
        if not there:
            why = "/workspace was unmounted, moved or covered in the guest"
            raise AgentError("conflict", f"cannot {verb}: {why}", OUT_OF_PLACE)

    def layers(self) -> Layers:
        """The workspace against the seed."""
        require_none("compare", self.tree, [])
        return Layers(self.tree.open_root, lambda: os.dup(self._lower), self._differing)

    def _differing(self) -> Upper:
        return Upper(os.dup(self._upper), b"", self._links.changed())

    def _index(self) -> int:
        return os.open(b"work/index", _DIRECTORY, dir_fd=disks.workspace_directory())

    def save(self, stream: Stream) -> dict[str, Any]:
        """→ what differs from the seed as entries on DATA 1, with the overlay's marks; counts as of tree_pack.

        No other verb changes anything meanwhile, so it is all of every change or nothing of it.
        """
        flow = Flow(stream)
        try:
            packer = Packer(flow.send, flow.check)
            with self.tree.lock(flow.check):
                retry_rollback(self.tree)
                require_none("save", self.tree, [])
                self._pack(packer)
            return packer.result()
        except OSError as error:
            raise failure("save", WORKSPACE, error) from None
        finally:
            flow.close()

    def _pack(self, packer: Packer) -> None:
        root = self.tree.open_root()
        try:
            packer.root(root)
            packer.directory(root, self._differing())
        finally:
            os.close(root)

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


def _make_place() -> None:
    """Make /workspace a directory; what the guest's root has put in its place goes aside."""
    if os.path.lexists(WORKSPACE) and not stat.S_ISDIR(os.lstat(WORKSPACE).st_mode):
        os.rename(WORKSPACE, WORKSPACE + b".aside")
    os.makedirs(WORKSPACE, exist_ok=True)
