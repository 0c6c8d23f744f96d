"""fsync_policy: when the changes of a tree are on its disk.

`KernelSync` is for a directory of the host: as durable as the host's other files, and a killed agent loses nothing of
it. `DurableSync` is for a guest: what is acknowledged outlives the virtual machine.
"""

from __future__ import annotations

import os

from pyro_mcp.guest.syscalls import sync_data, syncfs


class KernelSync:
    """The kernel writes when it likes."""

    def all(self, fd: int) -> None:
        """Everything done so far, in the file system of `fd`."""

    def data(self, fd: int) -> None:
        """The content of the file `fd` will be there before any name that it is given from now on."""

    def file(self, fd: int) -> None:
        """The file `fd`, and the names that were given to it."""


class DurableSync(KernelSync):
    """Nothing returns before the disk has it."""

    def all(self, fd: int) -> None:
        syncfs(fd)

    def data(self, fd: int) -> None:
        # The blocks are allocated and written without a commit of the file system's journal, which costs most of an
        # fsync here; the journal keeps the order of all later changes.
        sync_data(fd)

    def file(self, fd: int) -> None:
        os.fsync(fd)
