"""search: lines of the workspace's files that match a regular expression.

A hostile expression can run for ever inside one call of the matcher, which would hold the whole agent. So a forked
child does the matching; it is killed on timeout or cancellation, and what it found until then is kept.
"""

from __future__ import annotations

import json
import os
import re
import select
import stat
import time
from collections.abc import Iterator
from typing import Any, NoReturn

from pyro_mcp.guest import params as read
from pyro_mcp.guest.errors import invalid
from pyro_mcp.guest.exec.children import fork
from pyro_mcp.guest.flow import Flow
from pyro_mcp.guest.tree.files import GIT, MAX_ANSWER, SNIFF, walk
from pyro_mcp.guest.tree.glob import Glob
from pyro_mcp.guest.tree.paths import ResolvedPath, Tree, absolute, failure, relative, reopen
from pyro_mcp.protocol.channel import Stream
from pyro_mcp.protocol.entries import MAX_SIZE
from pyro_mcp.protocol.frames import encode_json

MAX_FILE = 32 * 1024 * 1024
MAX_MATCHES = 10_000
SECONDS = 20.0


class Search:
    """The verb `file_search`. Skips binary files, files beyond 32 MiB, and `.git` unless the path is in it."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    def search(self, stream: Stream) -> dict[str, Any]:
        """pattern, path, glob?, limit, offset?, max_line, ignore_case, timeout_seconds →
        matches[{path,line,text}] after the first `offset`, truncated, timed_out, files_searched, files_skipped."""
        p = {"limit": 200, "offset": 0, "max_line": 400, "timeout_seconds": SECONDS, **stream.params}
        parts = relative("search", p.get("path", "."))
        hunt = _Hunt(p)
        seconds = read.seconds(p, "timeout_seconds", max_=300.0) or SECONDS
        flow = Flow(stream)
        try:
            with self._tree.existing(parts) as place:
                return _supervise(place, hunt, seconds, stream)
        except OSError as error:
            raise failure("search", absolute(parts), error) from None
        finally:
            stream.on_cancel(None)
            flow.close()


class _Hunt:
    """What is sought, and the work of the child."""

    def __init__(self, p: dict[str, Any]) -> None:
        pattern = read.to_bytes("pattern", p.get("pattern"), limit=4096)
        glob = p.get("glob")
        self._glob = None if glob is None else Glob(read.text(p, "glob", limit=1024))
        self.limit = read.integer(p, "limit", min_=1, max_=MAX_MATCHES)
        self._offset = read.integer(p, "offset", min_=0, max_=MAX_SIZE)
        self._max_line = read.integer(p, "max_line", min_=1, max_=16384)
        flags = re.MULTILINE | (re.IGNORECASE if read.flag(p, "ignore_case") else 0)
        try:
            self._regex = re.compile(pattern.decode("utf-8", "surrogateescape"), flags)
        except (re.error, OverflowError, RecursionError) as error:
            raise invalid(f"the pattern is malformed: {error}", "It is a Python regular expression.") from None

    def run(self, place: ResolvedPath, out: int) -> None:
        """In the child: write one JSON line for each match, then a last one with the counts."""
        searched = skipped = passed = 0
        for path, fd in _files(place):
            below = b"/".join(path[len(place.parts) :]) or place.name
            if self._glob is not None and not self._glob.matches(below):
                continue
            text = _text(fd)
            if text is None:
                skipped += 1
                continue
            searched += 1
            shown = os.fsdecode(absolute(path))
            for number, line in self._lines(text):
                passed += 1
                if passed <= self._offset:
                    continue
                _say(out, {"path": shown, "line": number, "text": line})
        _say(out, {"searched": searched, "skipped": skipped})

    def _lines(self, text: str) -> Iterator[tuple[int, str]]:
        at, number = 0, 1
        while at <= len(text):
            found = self._regex.search(text, at)
            if found is None:
                return
            number += text.count("\n", at, found.start())
            start = text.rfind("\n", 0, found.start()) + 1
            end = text.find("\n", found.start())
            end = len(text) if end < 0 else end
            line = text[start:end]
            inside = self._regex.search(line)
            if inside and (line or end < len(text)):
                yield number, self._cut(line.removesuffix("\r"), inside.start())
            at, number = end + 1, number + 1

    def _cut(self, line: str, column: int) -> str:
        if len(line) <= self._max_line:
            return line
        start = max(0, min(column - self._max_line // 4, len(line) - self._max_line))
        return ("…" if start else "") + line[start : start + self._max_line] + "…"


def _files(place: ResolvedPath) -> Iterator[tuple[list[bytes], int]]:
    if place.is_file():
        yield place.parts, place.fd
        return
    if not place.is_directory():
        return
    closed = None if GIT in place.parts else GIT
    for path, fd in walk(place, recursive=True, check=lambda: None, closed=closed):
        if stat.S_ISREG(os.fstat(fd).st_mode):
            yield path, fd


def _text(fd: int) -> str | None:
    """The text of a regular file; None when it is none, too large, or not text."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_FILE:
        return None
    try:
        own = reopen(fd, os.O_RDONLY)
    except OSError:
        return None
    try:
        head = os.read(own, SNIFF)
        if b"\0" in head:
            return None
        pieces, size = [head], len(head)
        while size <= MAX_FILE and (piece := os.read(own, 1 << 20)):
            pieces.append(piece)
            size += len(piece)
    except OSError:
        return None
    finally:
        os.close(own)
    return b"".join(pieces).decode("utf-8", "surrogateescape")


def _say(out: int, value: dict[str, Any]) -> None:
    data = memoryview(encode_json(value) + b"\n")
    while data:
        data = data[os.write(out, data) :]


def _supervise(place: ResolvedPath, hunt: _Hunt, seconds: float, stream: Stream) -> dict[str, Any]:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        child = fork(lambda: _child(place, hunt, writer))
    except OSError:
        os.close(reader)
        raise
    finally:
        os.close(writer)
    try:
        stream.on_cancel(child.kill)
        return _collect(reader, hunt.limit, time.monotonic() + seconds)
    finally:
        os.close(reader)
        child.kill()
        child.reap()


def _child(place: ResolvedPath, hunt: _Hunt, writer: int) -> NoReturn:
    try:
        hunt.run(place, writer)
    except (OSError, RecursionError, MemoryError):
        os._exit(1)
    os._exit(0)


def _collect(reader: int, limit: int, deadline: float) -> dict[str, Any]:
    """Read the child's lines until it ends, the limits are reached, or the time is up."""
    matches: list[dict[str, Any]] = []
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    weight, rest, complete, timed_out = 0, b"", False, False
    counts = {"searched": 0, "skipped": 0}
    while not complete:
        remaining = deadline - time.monotonic()
        if remaining <= 0 or not poll.poll(remaining * 1000):
            timed_out = True
            break
        piece = os.read(reader, 65536)
        if not piece:
            break
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            value = json.loads(line)
            if "searched" in value:
                counts, complete = value, True
                break
            weight += len(line) + 1
            if len(matches) >= limit or weight > MAX_ANSWER:
                return _answer(matches, counts, truncated=True, timed_out=False)
            matches.append(value)
    return _answer(matches, counts, truncated=not complete, timed_out=timed_out)


def _answer(
    matches: list[dict[str, Any]], counts: dict[str, Any], *, truncated: bool, timed_out: bool
) -> dict[str, Any]:
    return {
        "matches": matches,
        "truncated": truncated,
        "timed_out": timed_out,
        "files_searched": counts["searched"],
        "files_skipped": counts["skipped"],
    }
