"""Mcp stdio: serve over standard input and output, and stop at once when asked to.

While serving, descriptor 0 is the null device and descriptor 1 is stderr, so that stray output of a library or a child
never reaches the protocol. What may come in is `mcp_wire`'s to say; the library hears messages, never lines. On a
signal and at the end of input the process leaves through `os._exit`: a thread that waits for the node must not hold it
up, and the node ends what a lost client had running.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import sys
import threading
import time
from typing import Any, NoReturn

import anyio
import anyio.to_thread
from mcp.server import Server
from mcp.shared.message import SessionMessage
from mcp.types import JSONRPCError, JSONRPCMessage, JSONRPCResponse, jsonrpc_message_adapter

from pyro_mcp.surfaces.mcp_wire import INTERNAL_ERROR, Answers, BoundedLines, Refused, Requests

DRAIN_SECONDS = 1.0
"""How long after the end of input what had been asked before may still be answered."""
HANG_UP_SECONDS = 1.5
"""The same, counted from when the host closed its end, for one that does not read what it asked for."""


def serve_stdio(server: Server[Any]) -> NoReturn:
    """Serve until input ends or SIGINT or SIGTERM comes; then leave the process with exit code 0."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: _leave())
    requests = _claim()
    anyio.run(_serve, server, requests)
    _leave()


async def _serve(server: Server[Any], requests: Requests) -> None:
    heard, hears = anyio.create_memory_object_stream[SessionMessage | Exception]()
    said, says = anyio.create_memory_object_stream[SessionMessage]()
    ended = anyio.Event()

    async def listen() -> None:
        # A thread of its own for each: those of calls may all be busy.
        limiter = anyio.CapacityLimiter(1)
        while (message := await anyio.to_thread.run_sync(requests.next, limiter=limiter)) is not None:
            await heard.send(SessionMessage(jsonrpc_message_adapter.validate_python(message, by_name=False)))
        ended.set()
        if requests.running:
            await anyio.sleep(DRAIN_SECONDS)
        _leave()

    async def speak() -> None:
        limiter = anyio.CapacityLimiter(1)
        async for item in says:
            await anyio.to_thread.run_sync(_send, requests, item.message, limiter=limiter)
            if ended.is_set() and not requests.running:
                _leave()

    async with anyio.create_task_group() as group:
        group.start_soon(listen)
        group.start_soon(speak)
        await server.run(hears, said, server.create_initialization_options())


def _send(requests: Requests, message: JSONRPCMessage) -> None:
    request_id = message.id if isinstance(message, JSONRPCResponse | JSONRPCError) else None
    try:
        line = message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n"
    except ValueError as error:
        if request_id is None:
            return
        line = Refused(INTERNAL_ERROR, f"cannot write the answer: {type(error).__name__}", request_id).lines()
    try:
        requests.answer(request_id, line)
    except OSError:
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


def _claim() -> Requests:
    """The protocol's two ends, on descriptors of their own; 0 and 1 are diverted."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    reads = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 3)
    writes = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, 3)
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    threading.Thread(target=_leave_when_hung_up, args=(reads,), name="hang-up", daemon=True).start()
    return Requests(BoundedLines(os.fdopen(reads, "rb")), Answers(os.fdopen(writes, "wb")))
