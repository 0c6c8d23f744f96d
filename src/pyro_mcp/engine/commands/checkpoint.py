"""Checkpoint: how far a command's output has come into its journal, so that the next node goes on from there.

A checkpoint is one small file beside the journal. It exists from before the command starts until its outcome is
recorded, and is rewritten in place after every piece of output. It is never flushed: it outlives the node in the page
cache, and a host that ends takes the machine with it. What the guest wrote up to `offset` is in the journal, masked.
What was read after that, and held back because a secret may begin in it, is requested again.
"""

from __future__ import annotations

import logging
import os
import struct
from dataclasses import dataclass
from pathlib import Path

from pyro_mcp.operations.call import STDERR, STDOUT

_log = logging.getLogger(__name__)

_MAGIC = b"PYM1"
_FORM = struct.Struct("<4sQd5Q5Q")


@dataclass(slots=True)
class StreamOffset:
    """Where one stream is. `covered` bytes from `offset` on belong to a secret whose mask is in the journal already;
    `size`, `tailed` and `lost` are the journal's: written, set aside past its bound, and dropped by a full disk."""

    offset: int = 0
    covered: int = 0
    size: int = 0
    tailed: int = 0
    lost: int = 0


class Checkpoint:
    """One command's checkpoint. `begun_ns` is on the host's boot clock."""

    def __init__(self, path: Path, begun_ns: int, timeout_seconds: float, offsets: dict[int, StreamOffset]) -> None:
        self.begun_ns = begun_ns
        self.timeout_seconds = timeout_seconds
        self.offsets = offsets
        self._path = path
        self._descriptor = -1
        self._complained = False

    @classmethod
    def create(cls, path: Path, begun_ns: int, timeout_seconds: float) -> Checkpoint:
        """A new checkpoint, at the beginning of both streams. Raises `OSError`."""
        checkpoint = cls(path, begun_ns, timeout_seconds, {STDOUT: StreamOffset(), STDERR: StreamOffset()})
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        checkpoint._descriptor = os.open(path, flags, 0o600)
        try:
            checkpoint._write()
        except OSError:
            checkpoint.remove()
            raise
        return checkpoint

    @classmethod
    def load(cls, path: Path) -> Checkpoint | None:
        """The checkpoint that an earlier node has left; None if there is none."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        data = os.pread(descriptor, _FORM.size + 1, 0)
        if len(data) != _FORM.size or not data.startswith(_MAGIC):
            os.close(descriptor)
            return None
        _, begun_ns, timeout_seconds, *numbers = _FORM.unpack(data)
        checkpoint = cls(
            path, begun_ns, timeout_seconds, {STDOUT: StreamOffset(*numbers[:5]), STDERR: StreamOffset(*numbers[5:])}
        )
        checkpoint._descriptor = descriptor
        return checkpoint

    def save(self) -> None:
        """Write `offsets` down. A failure is logged once: going on may then fail, but never gives wrong output."""
        try:
            self._write()
        except OSError as error:
            if not self._complained:
                _log.warning(f"cannot write {self._path}: {error}")
            self._complained = True

    def close(self) -> None:
        """Leave it to the next node."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def remove(self) -> None:
        """Nobody needs to go on from here."""
        self.close()
        self._path.unlink(missing_ok=True)

    def _write(self) -> None:
        out, err = self.offsets[STDOUT], self.offsets[STDERR]
        data = _FORM.pack(
            _MAGIC,
            self.begun_ns,
            self.timeout_seconds,
            *(out.offset, out.covered, out.size, out.tailed, out.lost),
            *(err.offset, err.covered, err.size, err.tailed, err.lost),
        )
        os.pwrite(self._descriptor, data, 0)


def checkpoint_path(directory: Path, sequence: int) -> Path:
    return directory / f"{sequence}.mark"
