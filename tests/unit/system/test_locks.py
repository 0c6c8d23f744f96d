"""Locks hold between threads and processes, and never outlive their holder."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pyro_mcp.errors import Cancelled
from pyro_mcp.system.locks import locked, try_locked

HOLD = """
import sys, time
from pathlib import Path
from pyro_mcp.system.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_at_a_time_between_threads(tmp_path: Path) -> None:
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        with locked(tmp_path / "lock"):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.01)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 6


def test_readers_share(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with locked(lock, shared=True), locked(lock, shared=True), try_locked(lock) as free:
        assert not free
    with try_locked(lock) as free:
        assert free


def test_a_killed_holder_frees_it(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    waited: list[bool] = []

    def wait() -> None:
        waited.append(True)
        holder.kill()

    with locked(lock, on_wait=wait):
        assert waited == [True]
    holder.wait()
    holder.stdout.close()


def test_waiting_can_be_cancelled(tmp_path: Path) -> None:
    cancelled = threading.Event()
    threading.Timer(0.1, cancelled.set).start()
    with locked(tmp_path / "lock"), pytest.raises(Cancelled), locked(tmp_path / "lock", cancelled=cancelled):
        pytest.fail("the lock was held")


def test_a_waiter_that_may_be_cancelled_gets_it(tmp_path: Path) -> None:
    got = threading.Event()

    def wait() -> None:
        with locked(tmp_path / "lock", cancelled=threading.Event()):
            got.set()

    with locked(tmp_path / "lock"):
        waiter = threading.Thread(target=wait)
        waiter.start()
        assert not got.wait(0.1)
    assert got.wait(30)
    waiter.join()
