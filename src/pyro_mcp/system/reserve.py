"""Reserve: room on a disk that is kept for what must get in when there is no other, such as a deletion."""

from __future__ import annotations

import os
from pathlib import Path

RESERVE_BYTES = 256 * 1024
"""Some pages of the store's log, and a little file or two."""


class Reserve:
    """Of the store at `store`: a file beside it that stands for the room."""

    def __init__(self, store: Path) -> None:
        self._path = store.with_suffix(".reserve")

    def keep(self) -> None:
        """Take the room, if it is not kept already and there is some; otherwise the next time tries again."""
        if self._path.exists():
            return
        try:
            with self._path.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, RESERVE_BYTES)
        except OSError:
            self._path.unlink(missing_ok=True)

    def release(self) -> None:
        """Let go of the room: the disk is full, and this is what it was kept for."""
        self._path.unlink(missing_ok=True)
