"""The dispatcher: one connection after another on a wire that stays."""

from __future__ import annotations

import os
import select
import socket
import threading
from typing import Any

import pytest

from pyro_mcp.guest.dispatch import Dispatcher
from pyro_mcp.protocol import pipe
from pyro_mcp.protocol.channel import Channel, Stream
from pyro_mcp.protocol.pipe import Pipe

PIECE = 8192
GIVE_UP = 10.0


class Caught:
    """Stands for `os` in the pipe, and holds a writer of several pieces before the second of its calls."""

    def __init__(self) -> None:
        self.held = threading.Event()
        self.free = threading.Event()
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def writev(self, fd: int, parts: list[Any]) -> int:
        if sum(map(len, parts)) <= PIECE:
            return os.writev(fd, parts)
        if self.calls:
            self.held.set()
            assert self.free.wait(GIVE_UP)
        # As a port that takes only some of it.
        count = os.writev(fd, parts[:1])
        self.calls.append("wrote")
        return count


def test_the_end_of_a_connection_waits_for_who_is_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer is between two calls when the next node is there: its last piece goes before the next hello."""
    caught = Caught()
    ours, theirs = socket.socketpair()
    again = ours.dup()

    def talk(stream: Stream) -> dict[str, Any]:
        stream.send(b"x" * 4 * PIECE, 1)
        return {}

    dispatcher = Dispatcher({"talk": talk}, {})
    first = Pipe(ours.detach(), write_piece=PIECE)
    done = threading.Event()
    left: list[bytes] = []

    def serve() -> None:
        left.append(dispatcher.serve(first))
        caught.calls.append("over")
        done.set()

    threading.Thread(target=serve, daemon=True).start()
    node_pipe = Pipe(os.dup(theirs.fileno()))
    node = Channel(node_pipe, initiator=True, hello={})
    node.start(GIVE_UP)
    monkeypatch.setattr(pipe, "os", caught)
    node.open("talk")
    assert caught.held.wait(GIVE_UP)
    next_node = Channel(Pipe(theirs.detach()), initiator=True, hello={})
    next_node.greet()
    assert ready_in(first._wake_read)
    # The old connection is closed. Without waiting for its writer it would be over before this has passed.
    assert not done.wait(0.5)
    caught.free.set()
    assert done.wait(GIVE_UP)
    assert caught.calls == ["wrote", "wrote", "over"]
    node.close()
    node_pipe.join()
    threading.Thread(target=dispatcher.serve, args=(Pipe(again.detach()), left[0]), daemon=True).start()
    assert next_node.start(GIVE_UP)["role"] == "agent"
    assert next_node.ping() > 0
    next_node.close()


def ready_in(fd: int) -> bool:
    return select.select([fd], [], [], GIVE_UP)[0] == [fd]
