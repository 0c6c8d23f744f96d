"""Mcp stdio: serve over standard input and output, and stop at once when asked to.

While serving, descriptor 0 is the null device and descriptor 1 is stderr, so that stray output of a library or a child
never reaches the protocol. Lines are bounded. On a signal and at the end of input the process leaves through
`os._exit`: a thread that waits for the node must not hold it up, and the node ends what a lost client had running.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from io import BufferedReader, TextIOWrapper
from typing import Any, NoReturn

import anyio
from mcp.server import Server
from mcp.server.stdio import stdio_server

MAX_LINE = 16 * 1024 * 1024
AHEAD_MAX = 64
"""Lines that are read while answers to as many still wait."""
HANG_UP_SECONDS = 2.0
"""How long after the host has closed its end what it had sent may still be read and answered."""


class AnswerSink:
    """The protocol's text sink, by which the reading of questions goes (`taken`): the SDK bounds nothing, and a host
    that asks without reading would fill this process with answers."""

    def __init__(self, sink: TextIOWrapper) -> None:
        self._sink = sink
        self._writing = threading.Lock()
        self._asked = self._written = 0

    def write(self, text: str) -> int:
        with self._writing:
            self._written += 1
            return self._sink.write(text)

    def flush(self) -> None:
        with self._writing:
            self._sink.flush()

    def taken(self) -> None:
        """Called before each line is read. With many unanswered, wait until no answer waits for its reader; with few,
        a host may write all it asks before it reads."""
        self._asked = max(self._asked, self._written) + 1
        if self._asked - self._written > AHEAD_MAX:
            with self._writing:
                pass


class BoundedLines:
    """Text lines from a binary reader. A line beyond the bound is swallowed and becomes one that is no JSON. `before`
    is called before each is read."""

    def __init__(
        self, source: BufferedReader, limit: int = MAX_LINE, before: Callable[[], None] = lambda: None
    ) -> None:
        self._source = source
        self._limit = limit
        self._before = before

    def fileno(self) -> int:
        return self._source.fileno()

    def readline(self) -> str:
        """The next line, or an empty text at the end."""
        self._before()
        line = self._source.readline(self._limit + 1)
        if len(line) <= self._limit:
            return line.decode("utf-8", "replace")
        while line and not line.endswith(b"\n"):
            line = self._source.readline(self._limit)
        return "line too long\n"


def serve_stdio(server: Server[Any]) -> NoReturn:
    """Serve until input ends or SIGINT or SIGTERM comes; then leave the process with exit code 0."""
    source, sink = _claim()
    threading.Thread(target=_leave_when_hung_up, args=(source.fileno(),), name="hang-up", daemon=True).start()
    anyio.run(_serve, server, source, sink)
    _leave()


async def _serve(server: Server[Any], source: Any, sink: Any) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(_leave_on_signal)
        async with stdio_server(anyio.wrap_file(source), anyio.wrap_file(sink)) as (reads, writes):
            group.start_soon(_run_then_leave, server, reads, writes)


async def _run_then_leave(server: Server[Any], reads: Any, writes: Any) -> None:
    await server.run(reads, writes, server.create_initialization_options())
    _leave()


async def _leave_on_signal() -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async for _ in signals:
            _leave()


def _leave_when_hung_up(descriptor: int) -> None:
    """A host that reads no answers fills the pipe, and then its end is never read: so the end is watched for."""
    watch = select.poll()
    watch.register(descriptor, select.POLLRDHUP)
    watch.poll()
    time.sleep(HANG_UP_SECONDS)
    _leave()


def _leave() -> NoReturn:
    os._exit(0)


def _claim() -> tuple[BoundedLines, AnswerSink]:
    """The protocol's two ends, on descriptors of their own; 0 and 1 are diverted."""
    sys.stdout.flush()
    reads = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 3)
    writes = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, 3)
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    source = os.fdopen(reads, "rb")
    answers = AnswerSink(TextIOWrapper(os.fdopen(writes, "wb"), encoding="utf-8", write_through=True))
    return BoundedLines(source, before=answers.taken), answers
