"""Dial: a deadline that holds, and a cancel that does not wait for it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from pyro_mcp.errors import Cancelled
from pyro_mcp.network.addresses import parse
from pyro_mcp.network.dial import dial

HERE = parse("127.0.0.1")


def deaf(callback: Callable[[], None] | None) -> None:
    """Nobody cancels."""


@pytest.fixture
def silent() -> Iterator[int]:
    """A port whose connections are never accepted: its queue is full, so the kernel drops what comes."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def test_it_connects(server: socket.socket) -> None:
    with dial(HERE, server.getsockname()[1], deaf) as sock:
        assert sock.getpeername() == server.getsockname()
        assert sock.getblocking() is False


def test_it_gives_up(silent: int) -> None:
    with pytest.raises(TimeoutError):
        dial(HERE, silent, deaf, seconds=0.2)


def test_it_is_given_up(silent: int) -> None:
    def on_cancel(callback: Callable[[], None] | None) -> None:
        if callback is not None:
            threading.Timer(0.05, callback).start()

    begun = time.monotonic()
    with pytest.raises(Cancelled):
        dial(HERE, silent, on_cancel, seconds=60)
    assert time.monotonic() - begun < 30
