"""Stdio: the process that a chat host starts: it serves over standard input and output, and stops when asked to.

While serving, descriptor 0 is the null device and descriptor 1 is stderr, so that stray output of a library or a child
never reaches the protocol. On a signal and at the end of input the process leaves through `os._exit`: a thread that
waits for the node must not hold it up, and the node ends what a lost client had running.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import sys
import threading
from importlib import import_module
from typing import NoReturn

from pyro_mcp.settings import Settings
from pyro_mcp.surfaces.mcp.greeter import Greeter
from pyro_mcp.surfaces.mcp.offer import Offer
from pyro_mcp.surfaces.mcp.wire import BoundedLines, HostInput, HostOutput, Message

HANG_UP_SECONDS = 4.0
"""How long after the host has closed its end what it had sent may still be read and answered, if it reads that."""
PRELOAD_SECONDS = 0.5
"""How long after its first answer a server imports what a call will need: many are only looked at, and end at once."""


def serve_stdio(settings: Settings, offer: Offer) -> NoReturn:
    """Serve until input ends or SIGINT or SIGTERM comes; then leave the process with exit code 0."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: _leave())
    # The host has gone: there is nobody to tell.
    with contextlib.suppress(OSError):
        _converse(settings, offer, _claim())
    _leave()


def _converse(settings: Settings, offer: Offer, requests: HostInput) -> None:
    greeter = Greeter(offer)
    first = _greet(greeter, requests)
    if first is None:
        return
    from pyro_mcp.surfaces.client import Client
    from pyro_mcp.surfaces.mcp.library import library_server
    from pyro_mcp.surfaces.mcp.stream import run

    run(library_server(Client(settings), offer), requests, greeter.opening, first, _leave)


def _greet(greeter: Greeter, requests: HostInput) -> Message | None:
    """Answer until a message comes that only the library answers; None at the end of input."""
    preload: threading.Timer | None = None
    while (message := requests.next()) is not None:
        answer = greeter.answer(message)
        if answer is None:
            return message
        if answer:
            requests.answer(message["id"], answer)
        if preload is None:
            preload = threading.Timer(PRELOAD_SECONDS, _preload)
            preload.daemon = True
            preload.start()
    return None


def _preload() -> None:
    import_module("pyro_mcp.surfaces.mcp.stream")
    import_module("pyro_mcp.surfaces.mcp.library")


def _leave_when_hung_up(reads: int, writes: int) -> None:
    """A host that has gone is noticed when its end is read, or something written. One that stops reading first is not,
    for then nothing more is read of it, either: so both ends are watched."""
    watch = select.poll()
    watch.register(writes, 0)
    watch.register(reads, select.POLLRDHUP)
    if any(one == writes for one, _ in watch.poll()):
        _leave()
    watch.unregister(reads)
    watch.poll(HANG_UP_SECONDS * 1000)
    _leave()


def _leave() -> NoReturn:
    os._exit(0)


def _claim() -> HostInput:
    """The protocol's two ends, on descriptors of their own; 0 and 1 are diverted."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    reads = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 3)
    writes = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, 3)
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    threading.Thread(target=_leave_when_hung_up, args=(reads, writes), name="hang-up", daemon=True).start()
    return HostInput(BoundedLines(os.fdopen(reads, "rb")), HostOutput(os.fdopen(writes, "wb")))
