"""Turns: changes and saves of a tree one after the other, and nobody who waits is stuck."""

from __future__ import annotations

import threading

import pytest

from pyro_mcp.guest.errors import AgentError
from pyro_mcp.guest.tree import tree_lock
from pyro_mcp.guest.tree.tree_lock import TreeLock


def nothing() -> None:
    return


def test_one_at_a_time() -> None:
    lock, inside = TreeLock(), []

    def visit() -> None:
        for _ in range(200):
            with lock(nothing):
                inside.append(1)
                assert len(inside) == 1
                inside.pop()

    visitors = [threading.Thread(target=visit) for _ in range(4)]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join()
    assert inside == []


def test_it_is_given_back_by_who_fails() -> None:
    lock = TreeLock()
    with pytest.raises(ValueError, match="inside"), lock(nothing):
        raise ValueError("inside")
    with lock(nothing):
        pass


def test_who_waits_may_give_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree_lock, "LOOK_SECONDS", 0.01)
    lock, asked = TreeLock(), []

    def cancelled() -> None:
        asked.append(1)
        if len(asked) == 3:
            raise AgentError("cancelled", "cannot write: it was cancelled")

    with lock(nothing), pytest.raises(AgentError, match="it was cancelled"), lock(cancelled):
        raise AssertionError
    with lock(nothing):
        pass


def test_who_waits_too_long_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree_lock, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(tree_lock, "WAIT_SECONDS", 0.05)
    lock = TreeLock()
    with lock(nothing), pytest.raises(AgentError) as caught, lock(nothing):
        raise AssertionError
    assert caught.value.code == "conflict"
    assert caught.value.hint
