"""entries: how a tree of files travels and is stored, the same between host and guest and in snapshots.

A sequence of entries, each a u32 length, a JSON header of that length, and the entry's stored bytes. The last entry is
of type "end" and carries the count and the CRC-32 of all that came before, so a cut or damaged sequence is known. (An
emulated guest computes CRC-32 at 490 MB/s and SHA-256 at 48; whoever stores a sequence digests it on the host.)
A file may be sparse: its header then lists `extents`, `[offset, length]` pairs, and only those bytes follow.

Names are text in which lone surrogates stand for bytes that are not UTF-8 (`os.fsencode` gives the bytes back).
Parents come before what they hold, and a hard link after the file it names.
"""

from __future__ import annotations

import binascii
import json
import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

MAX_HEADER = 65536
MAX_PATH = 4096
MAX_DEPTH = 256
MAX_NAME = 255
MAX_SIZE = 1 << 53
"""Bytes of one file. Sizes stay exact in any JSON reader."""
MAX_EXTENTS = 1024
MAX_ENTRIES = 5_000_000
MAX_TIME = 1 << 65
"""Nanoseconds, either way: what any file system of ours can name lies within."""
MAX_XATTRS = 4000
"""Bytes of one entry's extended attributes as `xattr_bytes` counts them: so many fit into a block of ext4."""
TYPES = frozenset({"file", "directory", "symlink", "hardlink", "whiteout", "opaque", "redirect", "root"})
"""The last four occur in saved overlays only: a name that is gone, a directory that hides what is below, one that shows
what is below at its `target` instead, and the directory, called ".", that all is in."""

_LENGTH = struct.Struct("!I")
_BATCH = 64 * 1024
_format = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


STAGE_PREFIX = b".pyro-stage-"
"""Work in progress at the root of a workspace: no verb lists, packs or compares it, and nothing is imported there."""
TOO_DEEP = "too deep"
"""Why a path that does not fit is left out."""


class EntryError(ValueError):
    """The sequence breaks a rule; `str` says which. What was taken from it must not be kept."""


class Entry(NamedTuple):
    """One member of a tree. `target` is the text of a symlink or redirect, or the path of the file that a hard link
    names."""

    path: str
    type: str
    mode: int = 0
    mtime_ns: int = 0
    size: int = 0
    target: str = ""
    uid: int = 0
    gid: int = 0
    extents: tuple[tuple[int, int], ...] | None = None
    xattrs: tuple[tuple[str, bytes], ...] = ()
    """Extended attributes of a file or directory, all in the namespace `user.`, sorted by name."""

    @property
    def stored(self) -> int:
        """How many data bytes follow the header."""
        return self.size if self.extents is None else sum(length for _, length in self.extents)


class Piece(NamedTuple):
    """Bytes of the file whose `Entry` came last, at `offset`. Bytes of a file that never come are zero."""

    offset: int
    data: bytes | memoryview


def fits(path: bytes) -> bool:
    """Whether a path is short enough to travel."""
    return len(path) <= MAX_PATH and path.count(b"/") < MAX_DEPTH


def safe_path(path: Any) -> str:
    """`path` if it is relative, plain and bounded: no empty, `.` or `..` part, no NUL. Raises `EntryError`."""
    raw = _name_bytes(path)
    parts = raw.split(b"/")
    if len(raw) > MAX_PATH or len(parts) > MAX_DEPTH:
        raise EntryError(f"a path of {len(raw)} bytes and {len(parts)} levels; at most {MAX_PATH} and {MAX_DEPTH} fit")
    for part in parts:
        if part in (b"", b".", b".."):
            raise EntryError(f"{path[:200]!r} is not a plain relative path")
        if len(part) > MAX_NAME:
            raise EntryError(f"{path[:200]!r} has a name of {len(part)} bytes; at most {MAX_NAME} fit")
    return str(path)


class Encoder:
    """Writes a sequence through `write`, in pieces of some 64 KiB, and larger ones as they came: those are good as
    long as the caller leaves them alone. Raises `EntryError` for what no decoder takes."""

    def __init__(self, write: Callable[[bytes | memoryview], object]) -> None:
        self.count = 0
        """Entries so far, without the end."""
        self.bytes = 0
        """Data bytes so far, without headers."""
        self._write = write
        self._checksum = 0
        self._buffer = bytearray()
        self._owed = 0

    def entry(self, entry: Entry) -> None:
        """Begin an entry; `data` must follow until its `stored` bytes are complete."""
        check(entry)
        self._require_complete()
        self._header(_to_header(entry))
        self.count += 1
        self._owed = entry.stored

    def data(self, data: bytes | memoryview) -> None:
        """The next bytes of the entry begun last; the bytes of a sparse file's extents in their order."""
        if len(data) > self._owed:
            raise EntryError("more data than the entry announced")
        self._owed -= len(data)
        self.bytes += len(data)
        self._put(data)

    @property
    def owed(self) -> int:
        """How many data bytes are still missing from the entry begun last."""
        return self._owed

    def finish(self) -> None:
        """Write the end and all that is pending."""
        self._require_complete()
        self._flush()
        self._header({"type": "end", "count": self.count, "crc32": self._checksum})
        self._flush()

    def _header(self, value: dict[str, Any]) -> None:
        raw = _format(value).encode("ascii")
        if len(raw) > MAX_HEADER:
            raise EntryError(f"a header of {len(raw)} bytes; at most {MAX_HEADER} fit")
        self._put(_LENGTH.pack(len(raw)) + raw)

    def _put(self, data: bytes | memoryview) -> None:
        if len(data) >= _BATCH:
            self._flush()
            self._emit(data)
            return
        self._buffer += data
        if len(self._buffer) >= _BATCH:
            self._flush()

    def _flush(self) -> None:
        if self._buffer:
            self._emit(bytes(self._buffer))
            self._buffer.clear()

    def _emit(self, data: bytes | memoryview) -> None:
        self._checksum = binascii.crc32(data, self._checksum)
        self._write(data)

    def _require_complete(self) -> None:
        if self._owed:
            raise EntryError(f"{self._owed} data bytes are missing from an entry")


class EntryDecoder:
    """Turns bytes into entries and their pieces, checking everything. Memory stays below one header and one feed.

    `max_entries` and `max_bytes` (data bytes, as stored) bound the whole sequence.
    """

    def __init__(self, *, max_entries: int = MAX_ENTRIES, max_bytes: int | None = None) -> None:
        self.count = 0
        self.bytes = 0
        self.finished = False
        """Whether the end has come and agreed with what was received."""
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._checksum = 0
        self._buffer = bytearray()
        self._needed: int | None = None
        self._extents: list[tuple[int, int]] = []
        """What is still to come of the current file, the next one last."""

    def feed(self, data: bytes | memoryview) -> Iterator[Entry | Piece]:
        """What `data` completes, in order: an `Entry`, then its `Piece`s. Exhaust it before the next feed."""
        view = memoryview(data)
        while view:
            if self.finished:
                raise EntryError("bytes after the end")
            if self._extents:
                piece = self._take_piece(view)
                view = view[len(piece.data) :]
                yield piece
                continue
            view, header = self._take_header(view)
            if header is not None:
                entry = self._begin(header)
                if entry is not None:
                    yield entry

    def close(self) -> None:
        """Say that no more bytes come. Raises `EntryError` unless the sequence is complete."""
        if not self.finished:
            raise EntryError("the sequence is cut off")

    def _take_piece(self, view: memoryview) -> Piece:
        offset, length = self._extents.pop()
        taken = view[:length]
        self._checksum = binascii.crc32(taken, self._checksum)
        if len(taken) < length:
            self._extents.append((offset + len(taken), length - len(taken)))
        return Piece(offset, taken)

    def _take_header(self, view: memoryview) -> tuple[memoryview, bytes | None]:
        needed = _LENGTH.size if self._needed is None else self._needed
        missing = needed - len(self._buffer)
        self._buffer += view[:missing]
        view = view[missing:]
        if len(self._buffer) < needed:
            return view, None
        if self._needed is None:
            self._needed = _LENGTH.unpack(self._buffer)[0]
            self._buffer.clear()
            if not 2 <= self._needed <= MAX_HEADER:
                raise EntryError(f"a header of {self._needed} bytes; at most {MAX_HEADER} fit")
            return view, None
        raw = bytes(self._buffer)
        self._buffer.clear()
        self._needed = None
        return view, raw

    def _begin(self, raw: bytes) -> Entry | None:
        value = _parse(raw)
        if value.get("type") == "end":
            if value.get("count") != self.count or value.get("crc32") != self._checksum:
                raise EntryError("the sequence was altered: its count or checksum differs")
            self.finished = True
            return None
        entry = _from_header(value)
        self._checksum = binascii.crc32(_LENGTH.pack(len(raw)) + raw, self._checksum)
        self.count += 1
        self.bytes += entry.stored
        if self.count > self._max_entries:
            raise EntryError(f"more than {self._max_entries} entries")
        if self._max_bytes is not None and self.bytes > self._max_bytes:
            raise EntryError(f"more than {self._max_bytes} bytes of data")
        extents = ((0, entry.size),) if entry.extents is None else entry.extents
        self._extents = [extent for extent in reversed(extents) if extent[1]]
        return entry


def check(entry: Entry) -> Entry:
    """`entry` if it keeps every rule of the format. Raises `EntryError`."""
    if entry.type not in TYPES:
        raise EntryError(f"{str(entry.type)[:64]!r} is not an entry type")
    if entry.type != "root" or entry.path != ".":
        safe_path(entry.path)
    _require_integer("mode", entry.mode, 0, 0o7777)
    _require_integer("mtime_ns", entry.mtime_ns, -MAX_TIME, MAX_TIME)
    _require_integer("size", entry.size, 0, MAX_SIZE if entry.type == "file" else 0)
    _require_integer("uid", entry.uid, 0, (1 << 32) - 2)
    _require_integer("gid", entry.gid, 0, (1 << 32) - 2)
    if entry.type == "hardlink":
        safe_path(entry.target)
    elif entry.type in ("symlink", "redirect"):
        if len(_name_bytes(entry.target)) > MAX_PATH:
            raise EntryError("a link target is too long")
    elif entry.target != "":
        raise EntryError(f"a {entry.type} has no target")
    if entry.extents is not None:
        _check_extents(entry)
    if entry.xattrs:
        _check_xattrs(entry)
    return entry


def xattr_bytes(name: str, value: bytes) -> int:
    """What one extended attribute counts towards `MAX_XATTRS`: name, value and what a file system adds."""
    return len(name.encode("utf-8", "surrogateescape")) + len(value) + 24


def _check_xattrs(entry: Entry) -> None:
    if entry.type not in ("file", "directory", "root"):
        raise EntryError(f"a {entry.type} has no extended attributes")
    last = ""
    for name, value in entry.xattrs:
        if not name.startswith("user.") or name == "user." or len(_name_bytes(name)) > MAX_NAME or name <= last:
            raise EntryError(f"{name[:200]!r} is no extended attribute that travels, or out of order")
        last = name
        if not isinstance(value, bytes):
            raise EntryError("an extended attribute is bytes")
    if sum(xattr_bytes(name, value) for name, value in entry.xattrs) > MAX_XATTRS:
        raise EntryError(f"more than {MAX_XATTRS} bytes of extended attributes")


def _check_extents(entry: Entry) -> None:
    extents = entry.extents or ()
    if entry.type != "file" or len(extents) > MAX_EXTENTS:
        raise EntryError("misplaced or too many extents")
    end = 0
    for offset, length in extents:
        _require_integer("offset", offset, end, entry.size)
        _require_integer("length", length, 1, entry.size - offset)
        end = offset + length


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        raise EntryError("a header is not JSON") from None
    if not isinstance(value, dict):
        raise EntryError("a header is not an object")
    return value


def _to_header(entry: Entry) -> dict[str, Any]:
    value: dict[str, Any] = {"path": entry.path, "type": entry.type}
    for name in ("mode", "mtime_ns", "size", "target", "uid", "gid"):
        if getattr(entry, name):
            value[name] = getattr(entry, name)
    if entry.extents is not None:
        value["extents"] = entry.extents
    if entry.xattrs:
        value["xattrs"] = [[name, binascii.b2a_base64(data, newline=False).decode()] for name, data in entry.xattrs]
    return value


_FIELDS = {"path", "type", "mode", "mtime_ns", "size", "target", "uid", "gid", "extents", "xattrs"}


def _from_header(value: dict[str, Any]) -> Entry:
    if not value.keys() <= _FIELDS or not {"path", "type"} <= value.keys():
        raise EntryError("a header lacks a field or has one too many")
    extents = value.get("extents")
    if extents is not None:
        if not isinstance(extents, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in extents):
            raise EntryError("extents are pairs of offset and length")
        value["extents"] = tuple((pair[0], pair[1]) for pair in extents)
    if "xattrs" in value:
        value["xattrs"] = _from_xattrs(value["xattrs"])
    if not isinstance(value["type"], str):
        raise EntryError("an entry's type must be text")
    return check(Entry(**value))


def _from_xattrs(pairs: Any) -> tuple[tuple[str, bytes], ...]:
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise EntryError("extended attributes are pairs of name and value")
    if not all(isinstance(text, str) for pair in pairs for text in pair):
        raise EntryError("an extended attribute is text")
    try:
        return tuple((name, binascii.a2b_base64(text, strict_mode=True)) for name, text in pairs)
    except ValueError:
        raise EntryError("the value of an extended attribute is not base64") from None


def _name_bytes(text: Any) -> bytes:
    if not isinstance(text, str):
        raise EntryError("a name is not text")
    if not text or "\0" in text:
        raise EntryError(f"the name {text[:200]!r} holds a NUL" if text else "a name is empty")
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise EntryError("a name is not valid text") from None


def _require_integer(name: str, value: Any, min_: int, max_: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not min_ <= value <= max_:
        raise EntryError(f"{name} must be a whole number from {min_} to {max_}")
