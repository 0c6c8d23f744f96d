"""A single file of the host as the one entry of a tree that has nothing else."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from pyro_mcp.errors import InvalidArgument, NotFound
from pyro_mcp.protocol.entries import Entry, Piece
from pyro_mcp.system.atomic import disk_errors
from pyro_mcp.trees.source import DirectorySource


class FileSource(DirectorySource):
    """The regular file `root`, by its own name, with what a file in a directory would keep. A link to it is followed:
    it was named, not found."""

    mode = "file"

    def __iter__(self) -> Iterator[Entry | Piece]:
        with disk_errors(f"read {self._root}"):
            try:
                # Not blocking: what was a file a moment ago may be a pipe by now.
                descriptor = os.open(self._root, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            except FileNotFoundError:
                hint = "It was removed meanwhile; try again"
                raise NotFound(f"cannot read {self._root}: no such file", hint=hint) from None
            try:
                about = os.fstat(descriptor)
                if not stat.S_ISREG(about.st_mode):
                    hint = "It was replaced meanwhile; try again"
                    raise InvalidArgument(f"cannot read {self._root}: it is not a file", hint=hint)
                for item in self._file(descriptor, self._root.name, about):
                    self._require_wanted()
                    yield item
            finally:
                os.close(descriptor)
