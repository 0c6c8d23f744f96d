"""The members of a tar archive: ustar, GNU, PAX and the older forms, read strictly and the same on every Python.

What GNU tar understands is understood. What it would guess at, warn about or skip in silence is `Damaged`, with the
member's name: half an archive is worth less than none.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol
from urllib.parse import unquote_to_bytes

from pyro_mcp.model.count import count_of
from pyro_mcp.protocol.entries import MAX_SIZE

BLOCK = 512
_EXTENSION_MAX = 1024 * 1024
_SPARSE_MAX = 1_000_000
_KINDS = {
    b"0": "file", b"\0": "file", b"7": "file", b"S": "file", b"1": "hardlink", b"2": "symlink", b"3": "device",
    b"4": "device", b"5": "directory", b"6": "pipe", b"D": "directory", b"V": "label", b"M": "continuation",
}  # fmt: skip
_WITH_DATA = frozenset(b"0 \0 7 S D V M".split(b" "))
_DECIMAL = re.compile(rb"[0-9]{1,20}")
_TIME = re.compile(rb"(-?)([0-9]{1,20})(?:\.([0-9]*))?")
_RECORD = re.compile(rb"([0-9]{1,8}) ")
ENDLESS = "the mark of its end is missing; it was taken as far as it goes"
_XATTR = b"SCHILY.xattr."
_XATTR_AGAIN = b"LIBARCHIVE.xattr."
_ACLS = {b"SCHILY.acl.access": "system.posix_acl_access", b"SCHILY.acl.default": "system.posix_acl_default"}
Extents = tuple[tuple[int, int], ...]
Records = list[tuple[bytes, bytes]]


class Damaged(Exception):
    """Why an archive cannot be read, on its way to a message."""


class ByteStream(Protocol):
    """The archive without its packing. `position` counts what was read and skipped; `behind` what stands behind the
    packing's end."""

    position: int
    behind: int

    def read(self, size: int) -> bytes:
        """So many bytes, fewer at the end."""

    def skip(self, size: int) -> bool:
        """Whether there were so many."""


class Member(NamedTuple):
    """One member, as archived. `size` is that of the file, `offset` and `stored` say where its bytes are,
    and `extents` where in the file they belong if it is sparse."""

    name: str
    kind: str
    mode: int
    mtime_ns: int
    size: int
    target: str
    offset: int
    stored: int
    extents: Extents | None
    xattrs: tuple[tuple[str, bytes], ...]


class _Extras:
    """What extension headers say of the next member, and of all that follow."""

    def __init__(self) -> None:
        self.everywhere: dict[bytes, bytes] = {}
        self.clear()

    def clear(self) -> None:
        self.name: bytes | None = None
        self.target: bytes | None = None
        self.records: Records = []
        self.pending = False

    def fields(self) -> dict[bytes, bytes]:
        """By keyword. An empty value takes a field back."""
        if not self.everywhere and not self.records:
            return {}
        return {key: value for key, value in {**self.everywhere, **dict(self.records)}.items() if value}


def read_members(stream: ByteStream, tell: Callable[[str], object]) -> Iterator[Member]:
    """Every member to the mark of the end, the stream then behind that. `tell` gets what is not as it should be, and
    does no harm. Raises `Damaged`."""
    extras, last = _Extras(), ""
    while True:
        block = stream.read(BLOCK)
        if len(block) < BLOCK or not any(block):
            _end(block, last, extras)
            if not block:
                tell(ENDLESS)
            return
        if not _is_sound(block):
            begun = last or extras.pending
            raise Damaged(
                f"the header {_where(last)} is damaged: its checksum differs" if begun else "it is no tar archive"
            )
        kind = block[156:157]
        if kind in b"xXgLK":
            where = _where(last)
            size = _number(block[124:136], f"the size of an extended header {where}")
            _extend(extras, kind, _extension(stream, size, where), where)
            continue
        member = _member(stream, block, extras)
        extras.clear()
        yield member
        last = member.name
        end = member.offset + -(-member.stored // BLOCK) * BLOCK
        if not stream.skip(end - stream.position):
            raise Damaged(f"it ends within {show(last)}")


def show(name: str) -> str:
    """`name` for a message, bounded and on one line."""
    return ascii(name[:300])


def _where(last: str) -> str:
    return f"after {show(last)}" if last else "at its beginning"


def _end(block: bytes, last: str, extras: _Extras) -> None:
    """Raise `Damaged` unless the archive may end here, with `block`, behind the member `last`."""
    if len(block) % BLOCK or not (block or last):
        raise Damaged(f"it is cut off {_where(last)}: the mark of its end is missing")
    if extras.pending:
        raise Damaged(f"it ends {_where(last)} amid a member")


def _is_sound(block: bytes) -> bool:
    """Whether the header's checksum fits."""
    try:
        expected = _number(block[148:156], "a checksum")
    except Damaged:
        return False
    plain = sum(block) - sum(block[148:156]) + 8 * 32
    # Some add the bytes as signed ones: looked at only where it matters, because it takes longer than all else.
    return expected == plain or expected == plain - 256 * sum(byte > 127 for byte in block[:148] + block[156:])


def _extension(stream: ByteStream, size: int, where: str) -> bytes:
    if not 0 <= size <= _EXTENSION_MAX:
        raise Damaged(
            f"an extended header of {count_of(size, 'byte', grouped=True)} {where}; at most {_EXTENSION_MAX:,} fit"
        )
    data = stream.read(-(-size // BLOCK) * BLOCK)
    if len(data) < size:
        raise Damaged(f"it ends within an extended header {where}")
    return data[:size]


def _extend(extras: _Extras, kind: bytes, data: bytes, where: str) -> None:
    if kind == b"g":
        extras.everywhere.update(_records(data, where))
        return
    extras.pending = True
    if kind == b"L":
        extras.name = data.partition(b"\0")[0]
    elif kind == b"K":
        extras.target = data.partition(b"\0")[0]
    else:
        extras.records += _records(data, where)


def _records(data: bytes, where: str) -> Records:
    """PAX records, `length keyword=value` and a line feed, in their order."""
    found, at = [], 0
    while at < len(data):
        head = _RECORD.match(data, at)
        end = at + int(head[1]) if head else 0
        key, mark, value = data[head.end() : end - 1].partition(b"=") if head else (b"", b"", b"")
        if not head or end > len(data) or data[end - 1 : end] != b"\n" or not mark or not key:
            raise Damaged(f"an extended header {where} is damaged: {ascii(data[at : at + 40])[1:]}")
        found.append((key, value))
        at = end
    return found


def _member(stream: ByteStream, block: bytes, extras: _Extras) -> Member:
    fields = extras.fields()
    raw = fields.get(b"GNU.sparse.name") or fields.get(b"path") or extras.name or _header_name(block)
    name, flag = _text(raw), block[156:157]
    target = _text(fields.get(b"linkpath") or extras.target or block[157:257].partition(b"\0")[0])
    kind = _KINDS.get(flag)
    if kind is None or (flag == b"S" and block[257:265] != b"ustar  \0"):
        raise Damaged(f"{show(name)} has the unknown type {ascii(flag)[1:]}")
    stored = _size(block, fields, name) if flag in _WITH_DATA else 0
    if kind == "file" and name.endswith("/"):
        # How the oldest archives name a directory.
        if stored:
            raise Damaged(f"{show(name)} is a directory by its name and a file by its size")
        kind = "directory"
    if fields:
        _check_unused(fields, name)
    size, extents, offset = stored, None, stream.position
    if kind == "file":
        size, extents = _sparse(stream, block, extras, fields, name, stored)
        stored, offset = stored - (stream.position - offset if flag != b"S" else 0), stream.position
    if extents is not None:
        _check_extents(extents, size, stored, name)
    xattrs = _xattrs({**extras.everywhere, **dict(extras.records)}) if fields else ()
    mode = _number(block[100:108], "the mode", name)
    about = (mode & 0o7777, _mtime(block, fields, name), size if kind == "file" else 0)
    return Member(name, kind, *about, target, offset, stored, extents, xattrs)


def _xattrs(records: dict[bytes, bytes]) -> tuple[tuple[str, bytes], ...]:
    """Extended attributes: a user's, and ACLs under the names that Linux has for them. What libarchive writes a second
    time in its own way counts where it stands alone; its name is quoted as in a URL, its value is base64."""
    found = {_text(key.removeprefix(_XATTR)): value for key, value in records.items() if key.startswith(_XATTR)}
    for key, value in records.items():
        if key in _ACLS and value:
            found[_ACLS[key]] = value
        elif key.startswith(_XATTR_AGAIN):
            name, plain = unquote_to_bytes(key.removeprefix(_XATTR_AGAIN)), _unpacked(value)
            found.setdefault(_text(key if plain is None else name), value if plain is None else plain)
    return tuple(found.items())


def _unpacked(value: bytes) -> bytes | None:
    """What base64 says, with or without its padding; None when it is none."""
    try:
        return base64.b64decode(value.rstrip(b"=") + b"=" * (-len(value.rstrip(b"=")) % 4), validate=True)
    except ValueError:
        return None


def _header_name(block: bytes) -> bytes:
    name = block[:100].partition(b"\0")[0]
    prefix = block[345:500].partition(b"\0")[0] if block[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _size(block: bytes, fields: dict[bytes, bytes], name: str) -> int:
    if b"size" not in fields:
        size = _number(block[124:136], "the size", name)
        return size if 0 <= size <= MAX_SIZE else _bounded(size, f"the size of {show(name)}")
    what = f"the size of {show(name)}"
    return _bounded(_decimal(fields[b"size"], what), what)


def _bounded(size: int, what: str) -> int:
    if size < 0:
        raise Damaged(f"{what} is negative")
    if size > MAX_SIZE:
        raise Damaged(f"{what} is {count_of(size, 'byte', grouped=True)}, more than any file has")
    return size


def _mtime(block: bytes, fields: dict[bytes, bytes], name: str) -> int:
    if b"mtime" not in fields:
        return _number(block[136:148], "the time", name) * 1_000_000_000
    found = _TIME.fullmatch(fields[b"mtime"])
    if not found:
        raise Damaged(f"the time of {show(name)} is no number: {ascii(fields[b'mtime'][:40])[1:]}")
    value = int(found[2]) * 1_000_000_000 + int((found[3] or b"")[:9].ljust(9, b"0"))
    return -value if found[1] else value


def _check_unused(fields: dict[bytes, bytes], name: str) -> None:
    """What is of no use here and damaged all the same."""
    for key in (b"uid", b"gid"):
        if key in fields:
            _decimal(fields[key], f"the {key.decode()} of {show(name)}")
    for key in (b"atime", b"ctime"):
        if key in fields and not _TIME.fullmatch(fields[key]):
            raise Damaged(f"the {key.decode()} of {show(name)} is no number: {ascii(fields[key][:40])[1:]}")


def _sparse(
    stream: ByteStream, block: bytes, extras: _Extras, fields: dict[bytes, bytes], name: str, stored: int
) -> tuple[int, Extents | None]:
    """The size of a file and, of a sparse one, where its data belong. A map that precedes the data is read."""
    if block[156:157] != b"S" and not fields:
        return stored, None
    what = f"the map of {show(name)}"
    if block[156:157] == b"S":
        return _bounded(_number(block[483:495], what), what), _old_map(stream, block, what)
    if b"GNU.sparse.major" in fields:
        if (fields[b"GNU.sparse.major"], fields.get(b"GNU.sparse.minor")) != (b"1", b"0"):
            raise Damaged(f"{what} has an unknown version")
        size = _decimal(fields.get(b"GNU.sparse.realsize", b""), what)
        return _bounded(size, what), _leading_map(stream, stored, what)
    if b"GNU.sparse.size" not in fields:
        return stored, None
    if b"GNU.sparse.map" in fields:
        numbers = [_decimal(text, what) for text in fields[b"GNU.sparse.map"].split(b",")]
    else:
        expected = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")
        parts = [(key, value) for key, value in extras.records if key in expected]
        if any(key != expected[at % 2] for at, (key, _) in enumerate(parts)):
            raise Damaged(f"{what} is out of order")
        numbers = [_decimal(value, what) for _, value in parts]
    if len(numbers) % 2 or len(numbers) != 2 * _decimal(fields.get(b"GNU.sparse.numblocks", b"0"), what):
        raise Damaged(f"{what} is incomplete")
    return _bounded(_decimal(fields[b"GNU.sparse.size"], what), what), _pairs(numbers)


def _old_map(stream: ByteStream, block: bytes, what: str) -> Extents:
    numbers: list[int] = []
    part, more = block[386:482], block[482]
    while True:
        for at in range(0, len(part), 24):
            if part[at + 12] == 0:
                break
            numbers += [_number(part[at : at + 12], what), _number(part[at + 12 : at + 24], what)]
        if not more:
            return _pairs(numbers)
        if len(numbers) > 2 * _SPARSE_MAX:
            raise Damaged(f"{what} has no end")
        following = stream.read(BLOCK)
        if len(following) < BLOCK:
            raise Damaged(f"it ends within {what}")
        part, more = following[:504], following[504]


def _leading_map(stream: ByteStream, stored: int, what: str) -> Extents:
    lines: list[bytes] = []
    rest, read = b"", 0
    while not lines or len(lines) < 1 + 2 * _decimal(lines[0], what):
        block = stream.read(BLOCK) if read + BLOCK <= stored else b""
        if len(block) < BLOCK or len(lines) > 2 * _SPARSE_MAX:
            raise Damaged(f"it ends within {what}")
        read += BLOCK
        *whole, rest = (rest + block).split(b"\n")
        lines += whole
    return _pairs([_decimal(line, what) for line in lines[1 : 1 + 2 * _decimal(lines[0], what)]])


def _pairs(numbers: list[int]) -> Extents:
    return tuple((begin, length) for begin, length in zip(numbers[::2], numbers[1::2], strict=True) if length)


def _check_extents(extents: Extents, size: int, stored: int, name: str) -> None:
    end = 0
    for number, (begin, length) in enumerate(extents):
        if begin < end or length < 0 or begin + length > size:
            raise Damaged(f"the map of {show(name)} is out of order or reaches beyond its end")
        if length % BLOCK and number < len(extents) - 1:
            raise Damaged(f"the map of {show(name)} has a stretch that ends amid a block")
        end = begin + length
    total = sum(length for _, length in extents)
    if total != stored:
        raise Damaged(f"the map of {show(name)} covers {count_of(total, 'byte', grouped=True)} of {stored:,}")


def _number(field: bytes, what: str, name: str = "") -> int:
    """A number of a header: octal text, or binary where the first bit says so. `what`, of the member `name`, completes
    "... is no number"."""
    if field[0] & 0x80:
        bits = 8 * len(field) - 1
        value = int.from_bytes(field, "big") & (1 << bits) - 1
        return value - (1 << bits) if value >> bits - 1 else value
    text = field.lstrip(b" ").partition(b"\0")[0].partition(b" ")[0]
    if text.translate(None, b"01234567"):
        raise Damaged(f"{what}{f' of {show(name)}' if name else ''} is no number: {ascii(field)[1:]}")
    return int(text or b"0", 8)


def _decimal(text: bytes, what: str) -> int:
    if text.startswith(b"-") and _DECIMAL.fullmatch(text, 1):
        raise Damaged(f"{what} is negative")
    if not _DECIMAL.fullmatch(text):
        raise Damaged(f"{what} is no number: {ascii(text[:40])[1:]}")
    return int(text)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
