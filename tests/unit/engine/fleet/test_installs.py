"""Installing is the node's own: a call that goes leaves it going, and the next one joins it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pyro_mcp.engine.faults import no_faults
from pyro_mcp.engine.fleet.images import Images
from pyro_mcp.engine.fleet.installs import Installs
from pyro_mcp.environments.store import EnvironmentStore
from pyro_mcp.errors import Cancelled
from pyro_mcp.operations.call import Call
from pyro_mcp.settings import Settings
from pyro_mcp.system.process import CommandFailed
from pyro_mcp.system.progress import Progress

NAME = "debian:12"


class Build:
    """Work that goes on until it is let go or cancelled, and counts how often it was begun."""

    def __init__(self) -> None:
        self.begun = 0
        self.ended = 0
        self.tell: Progress = lambda message, fraction: None
        self.go = threading.Event()
        self.error: Exception | None = None

    def __call__(self, progress: Progress, cancelled: threading.Event) -> str:
        self.begun += 1
        self.tell = progress
        progress("Unpacking the base system", 0.35)
        try:
            while not self.go.wait(0.01):
                if cancelled.is_set():
                    raise Cancelled("cannot go on: cancelled")
            if self.error is not None:
                raise self.error
            return "image"
        finally:
            self.ended += 1


class Caller:
    """A call on a thread of its own, and what it heard."""

    def __init__(self, pool: ThreadPoolExecutor, installs: Installs, work: Build, *, keep: bool = True) -> None:
        self.heard: list[tuple[str, float | None]] = []
        self.call: Call[Any] = Call(None, report=lambda message, fraction: self.heard.append((message, fraction)))
        self.answer: Future[str] = pool.submit(installs.run, self.call, NAME, work, keep=keep)

    def heard_something(self) -> Caller:
        until(lambda: bool(self.heard))
        return self

    def leave(self) -> None:
        self.call.cancel()
        with pytest.raises(Cancelled):
            self.answer.result(5)


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def pool() -> Any:
    with ThreadPoolExecutor(8) as made:
        yield made


def test_who_goes_leaves_it_going_and_who_comes_hears_how_far_it_is(pool: ThreadPoolExecutor) -> None:
    installs, work, changes = Installs(), Build(), []
    installs.on_change(lambda: changes.append(installs.busy))
    for _ in range(12):
        caller = Caller(pool, installs, work).heard_something()
        assert caller.heard == [("installing debian:12: unpacking the base system", 0.35)]
        caller.leave()
        assert installs.busy
    last = Caller(pool, installs, work).heard_something()
    other = Caller(pool, installs, work).heard_something()
    work.tell("Installing packages", 0.7)
    until(lambda: last.heard[-1] == other.heard[-1] == ("installing debian:12: installing packages", 0.7))
    work.go.set()
    assert last.answer.result(5) == other.answer.result(5) == "image"
    assert (work.begun, work.ended) == (1, 1)
    until(lambda: changes == [False])
    assert not installs.busy


def test_what_goes_on_alone_is_whole_in_the_end(pool: ThreadPoolExecutor) -> None:
    installs, work = Installs(), Build()
    Caller(pool, installs, work).heard_something().leave()
    work.go.set()
    until(lambda: not installs.busy)
    assert (work.begun, work.ended) == (1, 1)


def test_a_pull_ends_with_the_last_of_those_who_pull(pool: ThreadPoolExecutor) -> None:
    installs, work = Installs(), Build()
    one = Caller(pool, installs, work, keep=False).heard_something()
    two = Caller(pool, installs, work, keep=False).heard_something()
    one.leave()
    assert installs.busy
    two.leave()
    until(lambda: not installs.busy)
    assert (work.begun, work.ended) == (1, 1)
    work.go.set()
    assert Caller(pool, installs, work, keep=False).answer.result(5) == "image"
    assert work.begun == 2


def test_a_pull_that_a_machine_waits_for_goes_on(pool: ThreadPoolExecutor) -> None:
    installs, work = Installs(), Build()
    puller = Caller(pool, installs, work, keep=False).heard_something()
    machine = Caller(pool, installs, work).heard_something()
    puller.leave()
    machine.leave()
    assert installs.busy
    work.go.set()
    until(lambda: not installs.busy)
    assert work.begun == 1


def test_who_comes_while_it_is_given_up_begins_anew(pool: ThreadPoolExecutor) -> None:
    installs, work = Installs(), Build()
    for _ in range(20):
        Caller(pool, installs, work, keep=False).heard_something().leave()
    work.go.set()
    assert Caller(pool, installs, work).answer.result(5) == "image"


def test_a_failure_is_told_to_all_who_wait_and_the_next_one_tries_again(pool: ThreadPoolExecutor) -> None:
    installs, work = Installs(), Build()
    work.error = CommandFailed("cannot finish mmdebstrap: no route", status=1, output="")
    callers = [Caller(pool, installs, work).heard_something() for _ in range(3)]
    work.go.set()
    for caller in callers:
        with pytest.raises(CommandFailed, match="no route"):
            caller.answer.result(5)
    work.error = None
    assert Caller(pool, installs, work).answer.result(5) == "image"


def test_a_node_that_ends_ends_it(pool: ThreadPoolExecutor) -> None:
    installs, work = Installs(), Build()
    caller = Caller(pool, installs, work).heard_something()
    installs.close()
    assert work.ended == 1
    with pytest.raises(Cancelled):
        caller.answer.result(5)


@pytest.mark.slow
def test_a_client_with_a_short_limit_comes_to_its_environment_by_asking_again(tmp_path: Path) -> None:
    """A real pull of half a minute by calls that give up after four seconds. Before, no number of them sufficed."""
    settings = Settings.load(state_dir=tmp_path / "state", cache_dir=tmp_path / "cache")
    store, installs = EnvironmentStore(settings), Installs()
    images = Images(settings, store, installs, tmp_path / "machines", no_faults)
    heard: list[tuple[str, float | None]] = []
    for _ in range(60):
        call: Call[Any] = Call(None, report=lambda message, fraction: heard.append((message, fraction)))
        timer = threading.Timer(4, call.cancel)
        timer.start()
        try:
            image, _ = images.for_guest(call, "debian:12-base")
        except Cancelled:
            continue
        finally:
            timer.cancel()
        assert image.path.is_file()
        break
    else:
        pytest.fail("it was never installed")
    fractions = [fraction for message, fraction in heard if "debian:12-base" in message and fraction is not None]
    assert fractions == sorted(fractions)
    assert sum(message.endswith("starting to build debian:12-base") for message, _ in heard) <= 2
    installs.close()
