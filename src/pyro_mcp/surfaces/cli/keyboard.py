"""Keyboard: what a person types while attached, for one connection after the other.

One thread reads the terminal. When a connection is lost its successor takes over what comes next; what was handed to
the lost one is not typed again, because it may have arrived.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator

from pyro_mcp.errors import InvalidArgument

DETACH_KEY = "ctrl-]"
KEY_RULE = "ctrl- and one of a-z [ \\ ] ^ _, or none"
PIECE_BYTES, AHEAD_MAX = 4096, 16


def parse_key(text: str) -> bytes | None:
    """The byte that a key such as `ctrl-]` sends; None for `none`. Raises `InvalidArgument`."""
    name = text.lower()
    if name == "none":
        return None
    last = name.removeprefix("ctrl-").upper()
    if not name.startswith("ctrl-") or len(last) != 1 or not "A" <= last <= "_":
        raise InvalidArgument(f"cannot use {text[:32]!r} as the key to detach with", hint=f"It is {KEY_RULE}.")
    return bytes((ord(last) - 64,))


class Keyboard:
    """The keys of the terminal `fd`, up to `key`, which leaves. `typed`: whether any came since it was last cleared."""

    def __init__(self, fd: int, key: bytes | None) -> None:
        self.typed = False
        self._fd = fd
        self._key = key
        self._pieces: deque[bytes] = deque()
        self._done = False
        self._turn = 0
        self._news = threading.Condition()

    def turn(self) -> Iterator[bytes]:
        """What is typed from now on, until the key that leaves or the end of the terminal. Ends the turn before."""
        with self._news:
            if not self._turn:
                threading.Thread(target=self._read, name="keyboard", daemon=True).start()
            self._turn += 1
            self._news.notify_all()
            return self._taken(self._turn)

    def _taken(self, turn: int) -> Iterator[bytes]:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._turn != turn or self._pieces or self._done)
                if self._turn != turn or not self._pieces:
                    return
                piece = self._pieces.popleft()
                self.typed = True
                self._news.notify_all()
            yield piece

    def _read(self) -> None:
        leaves = False
        while not leaves and (piece := self._next()):
            at = -1 if self._key is None else piece.find(self._key)
            leaves = at >= 0
            with self._news:
                self._news.wait_for(lambda: len(self._pieces) < AHEAD_MAX)
                if at:
                    self._pieces.append(piece[:at] if leaves else piece)
                self._news.notify_all()
        with self._news:
            self._done = True
            self._news.notify_all()

    def _next(self) -> bytes:
        try:
            return os.read(self._fd, PIECE_BYTES)
        except OSError:
            # The terminal has hung up.
            return b""
