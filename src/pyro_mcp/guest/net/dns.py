"""dns: the little of the protocol (RFC 1035, 6891) that a stub for addresses needs, safe against any bytes.

One question per message, without compression, since there is nothing before it to point to. Labels are printable
ASCII and hold no dot, so that the name the host judges is the name that was asked. Nothing behind the question is
read but an OPT record in first place, for the size of answer that the client takes.
"""

from __future__ import annotations

import _socket
import struct
from collections.abc import Iterable
from typing import NamedTuple

NO_ERROR, FORMAT_ERROR, SERVER_FAILURE, NAME_ERROR, NOT_IMPLEMENTED = range(5)
ADDRESS, ADDRESS6 = 1, 28
FAMILIES = {ADDRESS: 4, ADDRESS6: 6}
"""Record types that we answer, and the IP version of each."""
MAX_TTL = 60
MAX_ANSWERS = 256

_HEADER = struct.Struct("!HHHHHH")
_RECORD = struct.Struct("!HHIH")
_ANSWER_BIT, _OPCODE, _TRUNCATED, _RECURSE, _RECURSES = 0x8000, 0x7800, 0x0200, 0x0100, 0x0080
_INTERNET, _OPT = 1, 41
_EXTENDED_ERROR, _BLOCKED = 15, 15
_NAME_BYTES, _LABEL_BYTES = 255, 63
_SMALLEST, _LARGEST = 512, 1232
_QUESTION_NAME = b"\xc0\x0c"
_FAMILY = {ADDRESS: _socket.AF_INET, ADDRESS6: _socket.AF_INET6}


class Query(NamedTuple):
    """A question, and what its answer must repeat. `limit` is the size of datagram that the client takes."""

    number: int
    flags: int
    name: str
    kind: int
    question: bytes
    limit: int
    extended: bool


class BadQuery(Exception):
    """Not a question that can be asked; `reply` says so to whoever asked, and is empty for what is no question."""

    def __init__(self, reply: bytes = b"") -> None:
        super().__init__("not a question")
        self.reply = reply


def parse(message: bytes) -> Query:
    """The question in `message`. Raises `BadQuery`."""
    if len(message) < _HEADER.size:
        raise BadQuery
    number, flags, questions, answers, authorities, additional = _HEADER.unpack_from(message)
    if flags & _ANSWER_BIT:
        raise BadQuery
    if flags & _OPCODE:
        raise BadQuery(_complaint(number, flags, NOT_IMPLEMENTED))
    try:
        if questions != 1 or answers or authorities:
            raise ValueError("more than one question")
        name, at = _name(message)
        kind, space = struct.unpack_from("!HH", message, at)
    except (ValueError, struct.error):
        raise BadQuery(_complaint(number, flags, FORMAT_ERROR)) from None
    if space != _INTERNET:
        raise BadQuery(_complaint(number, flags, NOT_IMPLEMENTED))
    size = _offered(message, at + 4) if additional else None
    limit = _SMALLEST if size is None else max(_SMALLEST, min(size, _LARGEST))
    return Query(number, flags, name, kind, message[_HEADER.size : at + 4], limit, size is not None)


def reply(query: Query, code: int, addresses: Iterable[bytes] = (), ttl: int = 0, *, limit: int | None = None) -> bytes:
    """The answer. One that exceeds `limit` bytes (the client's own by default) is cut to nothing and says so."""
    return _reply(query, code, [_answer(query.kind, ttl, raw) for raw in addresses], b"", limit)


def blocked(query: Query, *, limit: int | None = None) -> bytes:
    """The answer for a name that may not be looked up: there is none; why, to who can read it (RFC 8914).

    The code REFUSED would be plainer, but programs take it for a passing fault of the server, and try again.
    """
    return _reply(query, NAME_ERROR, [], struct.pack("!HHH", _EXTENDED_ERROR, 2, _BLOCKED), limit)


def _reply(query: Query, code: int, records: list[bytes], option: bytes, limit: int | None) -> bytes:
    options = b"\0" + _RECORD.pack(_OPT, _LARGEST, 0, len(option)) + option if query.extended else b""
    size = _HEADER.size + len(query.question) + sum(map(len, records)) + len(options)
    flags = _flags(query.flags, code)
    if size > (query.limit if limit is None else limit):
        flags, records = flags | _TRUNCATED, []
    head = _HEADER.pack(query.number, flags, 1, len(records), 0, 1 if options else 0)
    return b"".join((head, query.question, *records, options))


def packed(kind: int, addresses: object) -> list[bytes]:
    """Those of `addresses` that are addresses in the form of `kind`, in bytes. Takes whatever a peer sent."""
    found = []
    for address in addresses[:MAX_ANSWERS] if isinstance(addresses, list) else []:
        try:
            found.append(_socket.inet_pton(_FAMILY[kind], address))
        except (OSError, TypeError, ValueError):
            continue
    return found


def _answer(kind: int, ttl: int, raw: bytes) -> bytes:
    return _QUESTION_NAME + _RECORD.pack(kind, _INTERNET, max(0, min(ttl, MAX_TTL)), len(raw)) + raw


def _flags(asked: int, code: int) -> int:
    return _ANSWER_BIT | asked & _RECURSE | _RECURSES | code


def _complaint(number: int, flags: int, code: int) -> bytes:
    return _HEADER.pack(number, _flags(flags, code) | flags & _OPCODE, 0, 0, 0, 0)


def _name(message: bytes) -> tuple[str, int]:
    """The name behind the header, and where it ends. Raises `ValueError`."""
    labels: list[bytes] = []
    at = _HEADER.size
    while True:
        length = message[at] if at < len(message) else _LABEL_BYTES + 1
        label = message[at + 1 : at + 1 + length]
        at += 1 + length
        if length == 0:
            return b".".join(labels).decode("ascii") or ".", at
        if length > _LABEL_BYTES or at - _HEADER.size >= _NAME_BYTES or len(label) < length:
            raise ValueError("a label is cut, too long or a pointer")
        if any(not 0x21 <= byte <= 0x7E or byte == 0x2E for byte in label):
            raise ValueError("a label holds what no name has")
        labels.append(label)


def _offered(message: bytes, at: int) -> int | None:
    """The size that an OPT record at `at` offers; None when there is none."""
    if len(message) < at + 1 + _RECORD.size or message[at]:
        return None
    kind, size, _flags, _length = _RECORD.unpack_from(message, at + 1)
    return size if kind == _OPT else None
