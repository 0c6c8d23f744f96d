"""An archive file as the stream of bytes that `tar` reads: as it is, or through gzip."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO

from pyro_mcp.trees.tar import ByteStream, Damaged

CHUNK = 256 * 1024
_PACKINGS = (("bzip2", b"BZh"), ("xz", b"\xfd7zXZ\0"), ("zstd", b"\x28\xb5\x2f\xfd"), ("zip", b"PK\x03\x04"))
_GZIP = b"\x1f\x8b"
_USTAR, _USTAR_AT = b"ustar", 257
SUFFIXES = (".tar", ".tar.gz", ".tgz")


class Plain:
    """The file itself, from its beginning."""

    behind = 0
    """Bytes behind the end of the packing: there is none."""

    def __init__(self, file: IO[bytes]) -> None:
        self.position = 0
        self._file = file
        self._size = os.fstat(file.fileno()).st_size

    def read(self, size: int) -> bytes:
        data = os.pread(self._file.fileno(), size, self.position)
        self.position += len(data)
        return data

    def skip(self, size: int) -> bool:
        self.position += size
        return self.position <= self._size


class Gzip:
    """The content of a gzip file of one or several members: at most `max_` bytes, calling `still_needed` meanwhile.

    As other readers do, it ignores what stands `behind` the last member, but counts it unless it is padding.
    """

    def __init__(self, file: IO[bytes], *, max_: int, ratio: int, still_needed: Callable[[], None]) -> None:
        self.position = 0
        self.behind = 0
        self._file = file
        self._at = 0
        self._max = max_
        self._ratio = ratio
        self._still_needed = still_needed
        self._inflate = zlib.decompressobj(31)
        self._input = b""
        self._ready = bytearray()
        self._ended = False

    def read(self, size: int) -> bytes:
        while len(self._ready) < size and not self._ended:
            self._more()
        data = bytes(self._ready[:size])
        del self._ready[:size]
        self.position += len(data)
        return data

    def skip(self, size: int) -> bool:
        while size:
            got = len(self.read(min(size, CHUNK)))
            if not got:
                return False
            size -= got
        return True

    def _more(self) -> None:
        self._still_needed()
        if self._inflate.eof:
            self._next_member()
            return
        if not self._input:
            self._input = self._from_file()
            if not self._input:
                raise Damaged("its gzip stream is cut off")
        try:
            data = self._inflate.decompress(self._input, CHUNK)
        except zlib.error as error:
            raise Damaged(f"its gzip stream is damaged ({error})") from None
        self._input = self._inflate.unconsumed_tail or self._inflate.unused_data
        self._ready += data
        if self.position + len(self._ready) > self._max:
            raise Damaged(f"it unfolds to more than {self._ratio} times its size")

    def _next_member(self) -> None:
        rest = self._input
        while not rest.lstrip(b"\0"):
            rest = self._from_file()
            if not rest:
                self._ended = True
                return
        rest = rest.lstrip(b"\0")
        if len(rest) < len(_GZIP):
            rest += self._from_file()
        if rest.startswith(_GZIP):
            self._inflate, self._input = zlib.decompressobj(31), rest
            return
        self._ended = True
        self.behind = os.fstat(self._file.fileno()).st_size - self._at + len(rest)

    def _from_file(self) -> bytes:
        data = os.pread(self._file.fileno(), CHUNK, self._at)
        self._at += len(data)
        return data


def begins_as_archive(path: Path) -> bool:
    """Whether the file begins as a tar archive of this millennium does, or as anything that packs one."""
    with path.open("rb", buffering=0) as file:
        head = os.pread(file.fileno(), _USTAR_AT + len(_USTAR), 0)
    packed = any(head.startswith(mark) for mark in (_GZIP, *(mark for _, mark in _PACKINGS)))
    return packed or head[_USTAR_AT:] == _USTAR


def unpacked(file: IO[bytes], *, ratio: int, free_bytes: int, still_needed: Callable[[], None]) -> ByteStream:
    """The file's content from the beginning. Raises `Damaged` for packings that are not read."""
    magic = os.pread(file.fileno(), 6, 0)
    for name, mark in _PACKINGS:
        if magic.startswith(mark):
            raise Damaged(f"it is packed with {name}; {', '.join(SUFFIXES)} are read")
    if not magic.startswith(_GZIP):
        return Plain(file)
    max_ = max(free_bytes, os.fstat(file.fileno()).st_size * ratio)
    return Gzip(file, max_=max_, ratio=ratio, still_needed=still_needed)
