"""Wire: JSON-RPC by lines, as a host speaks it over a pipe. Knows nothing of tools, and needs no library of MCP.

A line is decoded once, strictly, and what came out is what is run: content that would have to be altered first, such as
half a character, is refused. Every request is answered, also one that cannot be read, by its id where that can be
found. Memory is bounded: in the length of a line, in requests that run, and in answers that wait for their reader.
"""

from __future__ import annotations

import json
import re
import threading
from typing import Any, BinaryIO

import msgspec

from pyro_mcp.model.count import count_of

MAX_LINE = 16 * 1024 * 1024
END_BYTES = 1024
"""How much is kept of each end of a line that is too long, to find its id in."""
AHEAD_MAX = 64
"""How many requests may be unanswered before reading waits for a host that does not read."""
RUNNING_MAX = 512
RUNNING_BYTES = 64 * 1024 * 1024
"""How many requests may run at once, and how long they may be together."""

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
OVERLOADED = -32000

Message = dict[str, Any]
RequestId = int | str


class LineRefused(Exception):
    """A message that is not let in, and the error that answers it: for each of `ids`, which is one but for a batch."""

    def __init__(self, code: int, message: str, *ids: RequestId | None) -> None:
        super().__init__(message)
        self._code = code
        self._ids = ids or (None,)

    def lines(self) -> bytes:
        error = {"code": self._code, "message": str(self)}
        return b"".join(encode({"jsonrpc": "2.0", "id": one, "error": error}) for one in self._ids)


def encode(message: Message) -> bytes:
    """`message` as a line."""
    return msgspec.json.encode(message) + b"\n"


class BoundedLines:
    """Lines from a binary reader. Raises `LineRefused` for one beyond the bound, which is swallowed."""

    def __init__(self, source: BinaryIO, limit: int = MAX_LINE) -> None:
        self._source = source
        self._limit = limit

    def readline(self) -> bytes:
        """The next line with its end, or nothing at the end."""
        line = self._source.readline(self._limit + 1)
        if len(line) <= self._limit:
            return line
        head, tail = line[:END_BYTES], line[-END_BYTES:]
        while not line.endswith(b"\n"):
            line = self._source.readline(self._limit)
            if not line:
                break
            tail = (tail + line)[-END_BYTES:]
        raise LineRefused(
            INVALID_REQUEST,
            f"cannot read this request: it is longer than {count_of(self._limit, 'byte')}; send large content in parts",
            _id_at_an_end(head, tail),
        )


def parse(line: bytes) -> Message:
    """The request, notification or response in `line`. Raises `LineRefused`."""
    try:
        message = msgspec.json.decode(line)
    except RecursionError:
        found = _id_at_an_end(line[:END_BYTES], line[-END_BYTES:])
        raise LineRefused(INVALID_REQUEST, "cannot read this request: it is nested too deeply", found) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise _unreadable(line) from None
    if isinstance(message, list):
        ids = [found for one in message[:AHEAD_MAX] if (found := _id_of(one)) is not None]
        raise LineRefused(INVALID_REQUEST, "cannot read a batch: send one message a line", *ids)
    if not isinstance(message, dict):
        raise LineRefused(INVALID_REQUEST, "cannot read this request: it is not an object")
    return _checked(message)


def _unreadable(line: bytes) -> LineRefused:
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        message = f"cannot read this request: byte {error.start} is not UTF-8; send text as UTF-8 and binary as base64"
        return LineRefused(PARSE_ERROR, message, _id_in(line.decode("utf-8", "replace")))
    found = _id_in(text)
    if found is None:
        return LineRefused(PARSE_ERROR, "cannot read this request: it is not JSON")
    return LineRefused(
        PARSE_ERROR,
        "cannot read this request: it holds half of a surrogate pair, such as \\ud800, or a number that JSON does not"
        " have; leave that out",
        found,
    )


def _id_in(text: str) -> RequestId | None:
    """The id in what a lenient reader makes of `text`."""
    try:
        message = json.loads(text, parse_int=lambda digits: int(digits[:END_BYTES]))
    except (ValueError, RecursionError):
        return None
    return _id_of(message)


def _id_of(message: Any) -> RequestId | None:
    found = message.get("id") if isinstance(message, dict) else None
    if isinstance(found, str):
        return found if found == found.encode("utf-8", "replace").decode() else None
    return found if isinstance(found, int) and not isinstance(found, bool) else None


_ID = rb'"id"\s*:\s*(-?\d{1,20}|"[^"\\]{0,200}")\s*'
_NAMED = rb'"(?:jsonrpc|method)"\s*:\s*"[^"\\]{0,200}"\s*'
_FIRST = re.compile(rb"\s*\{\s*(?:" + _NAMED + rb",\s*)*" + _ID + rb"[,}]")
_LAST = re.compile(rb",\s*" + _ID + rb"(?:,\s*" + _NAMED + rb")*\}\s*$")


def _id_at_an_end(head: bytes, tail: bytes) -> RequestId | None:
    """The id of a request of which only the two ends are known; some clients write it first, others last."""
    found = _FIRST.match(head) or _LAST.search(tail)
    return _id_in('{"id":' + found[1].decode("utf-8", "replace") + "}") if found else None


def _checked(message: Message) -> Message:
    request_id = _id_of(message)
    if message.get("jsonrpc") != "2.0":
        raise LineRefused(INVALID_REQUEST, 'cannot read this request: it is not JSON-RPC "2.0"', request_id)
    if "method" not in message:
        if "result" in message or "error" in message:
            return message
        raise LineRefused(INVALID_REQUEST, "cannot read this request: it has no method", request_id)
    if "id" in message and request_id is None:
        raise LineRefused(INVALID_REQUEST, "cannot read this request: its id is neither a whole number nor a text")
    if not isinstance(message["method"], str):
        raise LineRefused(INVALID_REQUEST, "cannot read this request: its method is not a text", request_id)
    if not isinstance(message.get("params"), dict | None):
        raise LineRefused(INVALID_PARAMS, "cannot read this request: its params are not an object", request_id)
    return message


class HostOutput:
    """What goes to the host, a line at a time, from any thread."""

    def __init__(self, sink: BinaryIO) -> None:
        self._sink = sink
        self._writing = threading.Lock()

    def send(self, line: bytes) -> None:
        """Blocks until the host has taken it. Raises `OSError` when it has gone."""
        with self._writing:
            self._sink.write(line)
            self._sink.flush()

    def wait(self) -> None:
        """Until no line waits for its reader."""
        with self._writing:
            pass


class HostInput:
    """What comes from the host. What is refused is answered here, and never seen above."""

    def __init__(self, lines: BoundedLines, answers: HostOutput) -> None:
        self._lines = lines
        self._answers = answers
        self._running: dict[RequestId, int] = {}
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def running(self) -> int:
        """How many requests wait for their answer."""
        return len(self._running)

    def next(self) -> Message | None:
        """The next message, or None at the end. With many requests unanswered, waits first until the host reads: with
        few, it may write all it asks before it reads."""
        while True:
            if self.running >= AHEAD_MAX:
                self._answers.wait()
            try:
                line = self._lines.readline()
                if not line:
                    return None
                if line.isspace():
                    continue
                message = parse(line)
                self._admit(message, len(line))
            except LineRefused as refusal:
                self._answers.send(refusal.lines())
            else:
                return message

    def answer(self, request_id: RequestId | None, line: bytes) -> None:
        """Send the answer to a request, which ends it."""
        self._answers.send(line)
        self._end(request_id)

    def _admit(self, message: Message, size: int) -> None:
        if message.get("method") == "notifications/cancelled":
            # It is not answered any more.
            self._end((message.get("params") or {}).get("requestId"))
        if "method" not in message or "id" not in message:
            return
        request_id = message["id"]
        with self._lock:
            if request_id in self._running:
                told = f"cannot take this request: one with the id {str(request_id)[:64]!r} is not answered yet"
                raise LineRefused(INVALID_REQUEST, told, request_id)
            if len(self._running) >= RUNNING_MAX or (self._running and self._bytes + size > RUNNING_BYTES):
                told = f"cannot take this request: {len(self._running)} wait for their answer; send it again later"
                raise LineRefused(OVERLOADED, told, request_id)
            self._running[request_id] = size
            self._bytes += size

    def _end(self, request_id: Any) -> None:
        with self._lock:
            if isinstance(request_id, int | str):
                self._bytes -= self._running.pop(request_id, 0)
