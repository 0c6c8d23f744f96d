"""Scrub: secrets overwritten in files that leave a workspace, each with as many `*` as it has bytes.

Nothing moves, so a raw disk stays one and a binary keeps its offsets. What counts as a secret, and what does not, is
said in `redact`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from pyro_mcp.engine.secrets.redact import Masks
from pyro_mcp.system.sparse import extents

PIECE = 4 * 1024 * 1024


def scrub_tree(masks: Masks, root: Path) -> list[str]:
    """Overwrite secrets in `root`, a file or all the files below a directory, none of which a link leads to.

    The paths of those that held some, relative to `root`'s parent for a file and to `root` for a directory.
    """
    if not masks:
        return []
    if not root.is_dir():
        return [root.name] if scrub_file(masks, root) else []
    return [str(path.relative_to(root)) for path in _files(root) if scrub_file(masks, path)]


def scrub_file(masks: Masks, path: Path) -> int:
    """Overwrite the secrets in one file, in time proportional to its data; how many there were."""
    if not masks:
        return 0
    with _writable(path) as descriptor:
        return sum(_scrub_extent(masks, descriptor, *extent) for extent in list(extents(descriptor)))


def _files(root: Path) -> Iterator[Path]:
    for directory, _, names in os.walk(root):
        for name in sorted(names):
            path = Path(directory, name)
            if stat.S_ISREG(path.lstat().st_mode):
                yield path


class _writable:
    """The descriptor of a file that is ours to write, whatever its mode says meanwhile and again afterwards."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mode = stat.S_IMODE(path.lstat().st_mode)

    def __enter__(self) -> int:
        if self._mode & 0o600 != 0o600:
            self._path.chmod(self._mode | 0o600)
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        return self._descriptor

    def __exit__(self, *_: object) -> None:
        os.fchmod(self._descriptor, self._mode)
        os.close(self._descriptor)


def _scrub_extent(masks: Masks, descriptor: int, offset: int, length: int) -> int:
    """A secret cannot reach into a hole, since it has no NUL."""
    found, end = 0, offset + length
    overlap = max(map(len, masks.needles)) - 1
    while offset < end:
        data = os.pread(descriptor, min(PIECE + overlap, end - offset), offset)
        if not data:
            break
        for start, stop in masks.found(data):
            if start < PIECE:
                os.pwrite(descriptor, b"*" * (stop - start), offset + start)
                found += 1
        offset += PIECE
    return found
