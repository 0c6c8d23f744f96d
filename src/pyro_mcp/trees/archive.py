"""A tar archive as a sequence of entries, under our own rules.

`tarfile` only reads headers here; what they may mean is decided below, the same on every Python. Refused as a whole:
names that are absolute, hold `..` or NUL; members below a link or a file; a name given twice; hard links to anything
but an earlier file of the archive; negative sizes; damage; more than the limits. Left out and listed: devices and named
pipes. Altered and listed: setuid and setgid. Symbolic links are stored whatever they point at, and never followed. A
directory that comes after what lies in it has the mode that it names all the same.
"""

from __future__ import annotations

import gzip
import io
import math
import os
import tarfile
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from pyro_mcp.errors import Cancelled, InvalidArgument, NotFound
from pyro_mcp.protocol.entries import MAX_EXTENTS, Entry, EntryError, Piece, check, safe_path
from pyro_mcp.system.atomic import disk_errors
from pyro_mcp.trees.limits import Limits, Meter, Skipped
from pyro_mcp.trees.source import CHUNK, PRIVILEGED

SUFFIXES = (".tar", ".tar.gz", ".tgz")
_MAX_EXTENSION = 1024 * 1024
_EXTENSIONS = (b"x", b"g", b"X", tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_LEFT_OUT = {tarfile.CHRTYPE: "a device", tarfile.BLKTYPE: "a device", tarfile.FIFOTYPE: "a named pipe"}
_DAMAGE = (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, RecursionError, ValueError, UnicodeError)


class _Refused(Exception):
    """Our verdict on an archive, on its way through `tarfile`, which swallows its own kind of error."""


class _Header(tarfile.TarInfo):
    """A header read without trust: damage is not taken for the end, extensions are bounded, nothing runs backwards."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> _Header:
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.EmptyHeaderError:  # type: ignore[attr-defined]
            raise _Refused("it is cut off: the mark of its end is missing") from None
        except tarfile.HeaderError as error:
            raise _Refused(f"it is damaged or no tar archive ({error})") from None
        if header.size < 0:
            raise _Refused("a member has a negative size")
        if header.type in _EXTENSIONS and header.size > _MAX_EXTENSION:
            raise _Refused(f"an extended header of {header.size:,} bytes; at most {_MAX_EXTENSION:,} fit")
        return header

    def _block(self, count: int) -> int:
        if count < 0:  # CVE-2025-8194
            raise _Refused("a member has a negative size")
        return super()._block(count)  # type: ignore[misc, no-any-return]


class ArchiveSource:
    """The members of the archive at `path`. Iterate once; then `skipped` is complete.

    Raises `InvalidArgument` naming the member, `NotFound`, `PermissionDenied` and `Cancelled`; what was taken until
    then must not be kept.
    """

    mode = "archive"

    def __init__(self, path: Path, *, limits: Limits | None = None, cancelled: threading.Event | None = None) -> None:
        self.skipped: list[Skipped] = []
        self._path = path
        self._limits = limits or Limits()
        self._meter = Meter(self._limits, f"import {path}")
        self._cancelled = cancelled
        self._kinds: dict[str, str] = {}
        self._named: dict[str, tuple[int, int]] | None = None

    def __iter__(self) -> Iterator[Entry | Piece]:
        with disk_errors(f"read {self._path}"):
            try:
                file = self._path.open("rb")
            except FileNotFoundError:
                hint = "Give a directory or an archive of this host, as a path that is there"
                raise NotFound(f"cannot read {self._path}: no such file", hint=hint) from None
        with file:
            try:
                yield from self._members(self._unpacked(file))
            except _Refused as error:
                raise self._error(str(error)) from None
            except EntryError as error:
                raise self._error(str(error)) from None
            except _DAMAGE as error:
                raise self._error(f"it is damaged ({type(error).__name__}: {str(error)[:200]})") from None

    def _error(self, cause: str) -> InvalidArgument:
        hint = (
            "Nothing of it was imported. Give a directory, or make the archive anew, with relative names;"
            " <<write_workspace_file>> takes a single file"
        )
        return InvalidArgument(f"cannot import {self._path}: {cause}", hint=hint)

    def _unpacked(self, file: IO[bytes]) -> IO[bytes]:
        magic = file.read(6)
        file.seek(0)
        for name, mark in (
            ("bzip2", b"BZh"),
            ("xz", b"\xfd7zXZ\0"),
            ("zstd", b"\x28\xb5\x2f\xfd"),
            ("zip", b"PK\x03\x04"),
        ):
            if magic.startswith(mark):
                raise _Refused(f"it is packed with {name}; {', '.join(SUFFIXES)} are read")
        if not magic.startswith(b"\x1f\x8b"):
            return file
        packed = os.fstat(file.fileno()).st_size
        most = max(self._limits.free_bytes, packed * self._limits.ratio)
        return io.BufferedReader(_Bounded(gzip.GzipFile(fileobj=file), most, self._limits.ratio), CHUNK)

    def _members(self, file: IO[bytes]) -> Iterator[Entry | Piece]:
        for tar, member in self._headers(file):
            yield from self._member(tar, member)
        if isinstance(file, io.BufferedReader) and isinstance(file.raw, _Bounded):
            while file.read(CHUNK):  # gzip's checksum stands at its very end
                pass

    def _headers(self, file: IO[bytes]) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
        with tarfile.TarFile.open(
            fileobj=file, mode="r|", bufsize=CHUNK, tarinfo=_Header, encoding="utf-8", errors="surrogateescape"
        ) as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]
                if self._cancelled is not None and self._cancelled.is_set():
                    raise Cancelled(f"cannot finish reading {self._path}: cancelled")
                yield tar, member

    def _member(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[Entry | Piece]:
        path = _plain(member.name)
        if path == "":
            return
        if member.type in _LEFT_OUT:
            self._meter.add(path, 0)
            self.skipped.append(Skipped(path, _LEFT_OUT[member.type]))
            return
        entry = self._entry(path, member)
        yield from self._parents(path, entry.mtime_ns)
        if self._kinds.get(path) == entry.type == "directory":
            return
        if path in self._kinds:
            raise _Refused(f"{path!a} occurs twice")
        yield self._counted(entry)
        if entry.stored:
            yield from _data(tar, member, entry)

    def _entry(self, path: str, member: tarfile.TarInfo) -> Entry:
        mode, mtime_ns = member.mode & 0o1777, _nanoseconds(member.mtime)
        if member.isdir():
            return Entry(path, "directory", mode, mtime_ns)
        if member.issym():
            return Entry(path, "symlink", 0o777, mtime_ns, target=member.linkname)
        if member.islnk():
            target = _plain(member.linkname)
            if self._kinds.get(target) not in ("file", "hardlink"):
                raise _Refused(f"{path!a} is a hard link to {target!a}, which is no file before it")
            return Entry(path, "hardlink", target=target)
        if not member.isreg():
            raise _Refused(f"{path!a} has the unknown type {member.type!r}")
        if member.mode & 0o6000:
            self.skipped.append(Skipped(path, PRIVILEGED))
        return Entry(path, "file", mode, mtime_ns, member.size, extents=_extents(member))

    def _parents(self, path: str, mtime_ns: int) -> Iterator[Entry]:
        parts = path.split("/")
        for depth in range(1, len(parts)):
            parent = "/".join(parts[:depth])
            kind = self._kinds.get(parent)
            if kind is None:
                yield self._counted(Entry(parent, "directory", *self._later(parent, (0o755, mtime_ns))))
            elif kind != "directory":
                raise _Refused(f"{path!a} lies below {parent!a}, which is a {kind}")

    def _later(self, path: str, otherwise: tuple[int, int]) -> tuple[int, int]:
        """Mode and time of a directory that was missing before its content, as the archive names them further on.

        That takes a second reading of the headers, which only archives without proper order cost.
        """
        if self._named is None:
            self._named = {}
            with self._path.open("rb") as file:
                for _, member in self._headers(self._unpacked(file)):
                    if member.isdir():
                        about = member.mode & 0o1777, _nanoseconds(member.mtime)
                        self._named.setdefault(_plain(member.name), about)
        return self._named.get(path, otherwise)

    def _counted(self, entry: Entry) -> Entry:
        check(entry)
        self._meter.add(entry.path, entry.size)
        self._kinds[entry.path] = entry.type
        return entry


class _Bounded(io.RawIOBase):
    """A stream that ends in a refusal when more than `most` bytes come out of it."""

    def __init__(self, stream: gzip.GzipFile, most: int, ratio: int) -> None:
        self._stream = stream
        self._left = most
        self._ratio = ratio

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._stream.readinto(buffer)
        self._left -= count
        if self._left < 0:
            raise _Refused(f"it unfolds to more than {self._ratio} times its size")
        return count


def _plain(name: str) -> str:
    """The member's path; "" for the root itself."""
    text = name
    while text.startswith("./"):
        text = text[2:].lstrip("/") if text[2:3] == "/" else text[2:]
    text = text.rstrip("/")
    if text in ("", ".") and not name.startswith("/"):
        return ""
    return safe_path("/".join(part for part in text.split("/") if part != ".") if "/" in text else text)


def _nanoseconds(seconds: float) -> int:
    if not math.isfinite(seconds) or abs(seconds) > 1 << 33:
        return 0
    return int(seconds * 1_000_000_000)


def _extents(member: tarfile.TarInfo) -> tuple[tuple[int, int], ...] | None:
    found = getattr(member, "sparse", None)
    if found is None:
        return None
    result = tuple((offset, length) for offset, length in found if length)
    if len(result) > MAX_EXTENTS:
        raise _Refused(f"{member.name!a} has more than {MAX_EXTENTS} stretches of data")
    return result


def _data(tar: tarfile.TarFile, member: tarfile.TarInfo, entry: Entry) -> Iterator[Piece]:
    # `extractfile` would do the same, but on some Pythons it asks the stream for what a stream cannot do.
    stream: Any = tar.fileobj
    stream.seek(member.offset_data)
    for begin, length in entry.extents if entry.extents is not None else ((0, entry.size),):
        end = begin + length
        while begin < end:
            data = stream.read(min(CHUNK, end - begin))
            if not data:
                raise _Refused(f"it ends within {member.name!a}")
            yield Piece(begin, data)
            begin += len(data)
