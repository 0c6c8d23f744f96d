"""Staging: directories of this host in which an export is being built, recorded before the build begins.

Exports are built outside the state directory, where no node would look for what a killed one has left. A note per
directory under way, made before it and removed after it, tells the next node.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from pyro_mcp.engine.faults import Faults
from pyro_mcp.system.atomic import make_directory, write_file
from pyro_mcp.trees.work import clear

_log = logging.getLogger(__name__)

PREFIX = ".pyro-"
"""So begins the name of whatever may be removed."""
_FULL = (errno.ENOSPC, errno.EDQUOT)


class ExportStaging:
    """The directories under way of one state directory, noted below `home`."""

    def __init__(self, home: Path, faults: Faults) -> None:
        self._home = home
        self._faults = faults

    @contextlib.contextmanager
    def tracked(self, work: Path) -> Iterator[None]:
        """While inside, `work` may exist. Raises `OSError`."""
        note = self._home / secrets.token_hex(8)
        try:
            make_directory(self._home)
            write_file(note, os.fsencode(work))
        except OSError as error:
            # A full state directory is a reason to export. Left behind, this one waits for the next export beside it.
            if error.errno not in _FULL:
                _drop(note)
                raise
        self._faults("outgoing announced")
        try:
            yield
        finally:
            self._faults("outgoing done")
            if not work.exists():
                _drop(note)

    def sweep(self) -> None:
        """Remove what a node that was killed has left. Nobody may build anything meanwhile."""
        for note in self._home.iterdir() if self._home.is_dir() else ():
            try:
                # One that is hidden was cut off while it was written: what it should have named was never made.
                work = None if note.name.startswith(".") else Path(os.fsdecode(note.read_bytes()))
                if work is not None and work.name.startswith(PREFIX):
                    clear(work)
                if work is None or not work.is_dir():
                    note.unlink()
                else:
                    _log.warning(f"cannot remove {work}, which an interrupted export has left")
            except (OSError, ValueError) as error:
                _log.warning(f"cannot look at {note}: {error}")


def _drop(note: Path) -> None:
    """Without its note: a note that stays names what is gone, and the next node drops it."""
    try:
        note.unlink(missing_ok=True)
    except OSError as error:
        _log.warning(f"cannot remove {note}: {error}")
