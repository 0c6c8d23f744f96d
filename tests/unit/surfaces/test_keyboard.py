"""The keyboard of an attached person: every key to one connection, none twice, none to one that is lost."""

from __future__ import annotations

import contextlib
import os
import tty
from collections.abc import Iterator

import pytest

from pyro_mcp.surfaces.cli.keyboard import AHEAD_MAX, PIECE_BYTES, Keyboard


@pytest.fixture
def terminal() -> Iterator[tuple[Keyboard, int]]:
    master, slave = os.openpty()
    tty.setraw(slave)
    yield Keyboard(slave, b"\x1d"), master
    os.close(master)
    os.close(slave)


def test_the_key_that_leaves_ends_it_and_is_not_typed(terminal: tuple[Keyboard, int]) -> None:
    keyboard, master = terminal
    os.write(master, b"abc\x1dlost")
    assert not keyboard.typed
    assert b"".join(keyboard.turn()) == b"abc"
    assert keyboard.typed
    assert list(keyboard.turn()) == []


def test_a_successor_gets_what_is_typed_later_and_nothing_twice(terminal: tuple[Keyboard, int]) -> None:
    keyboard, master = terminal
    first = keyboard.turn()
    os.write(master, b"a")
    assert next(first) == b"a"
    second = keyboard.turn()
    os.write(master, b"b")
    assert list(first) == []
    assert next(second) == b"b"
    os.write(master, b"\x1d")
    assert list(second) == []


def test_the_end_of_the_terminal_ends_it() -> None:
    master, slave = os.openpty()
    os.close(master)
    assert list(Keyboard(slave, None).turn()) == []
    os.close(slave)


def test_it_reads_only_so_far_ahead() -> None:
    read, write = os.pipe()
    keyboard = Keyboard(read, None)
    keys = keyboard.turn()
    os.set_blocking(write, False)
    whole = bytes(range(256)) * (PIECE_BYTES * (AHEAD_MAX + 40) // 256)
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while sent < len(whole):
            sent += os.write(write, whole[sent:])
    assert sent < len(whole)
    os.set_blocking(write, True)
    taken = b""
    while len(taken) < sent:
        taken += next(keys)
    os.close(write)
    assert taken + b"".join(keys) == whole[:sent]
    os.close(read)
