"""Outgoing: where on this host something is being built beside its destination, noted before it begins.

Exports are built outside the state directory, where no node would look for what a killed one has left. A note per
directory under way, made before it and removed after it, tells the next node.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from pyro_mcp.system.atomic import make_directory, write_file
from pyro_mcp.trees.work import clear
from pyro_mcp.workspaces.faults import Faults

_FULL = (errno.ENOSPC, errno.EDQUOT)


class Outgoing:
    """The directories under way of one state directory, noted below `home`."""

    def __init__(self, home: Path, faults: Faults) -> None:
        self._home = home
        self._faults = faults

    @contextlib.contextmanager
    def announced(self, work: Path) -> Iterator[None]:
        """While inside, `work` may exist. Raises `OSError`."""
        note = self._home / secrets.token_hex(8)
        try:
            make_directory(self._home)
            write_file(note, os.fsencode(work))
        except OSError as error:
            # A full state directory is a reason to export. Left behind, this one waits for the next export beside it.
            if error.errno not in _FULL:
                raise
        self._faults("outgoing announced")
        try:
            yield
        finally:
            self._faults("outgoing done")
            note.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove what a node that was killed has left. Nobody may build anything meanwhile."""
        for note in self._home.iterdir() if self._home.is_dir() else ():
            try:
                work = Path(os.fsdecode(note.read_bytes()))
                clear(work)
                if work.is_dir():
                    print(f"cannot remove {work}, which an interrupted export has left")
                else:
                    note.unlink()
            except (OSError, ValueError) as error:
                print(f"cannot look at {note}: {error}")
