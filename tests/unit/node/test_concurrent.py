"""Two clients on one workspace at once: what each was answered fits some order of what both did, and it is kept.

Given a real node whose machines are on this host, when two clients run short programs at the same time, then every
answer and what is there afterwards are explained by one interleaving (`histories`), or refused with a typed conflict.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fleetlab import engine_at, processes_of
from histories import (
    REF,
    Append,
    Delete,
    Drop,
    Keep,
    Op,
    Patch,
    Program,
    Read,
    Reset,
    Seen,
    Start,
    State,
    Stop,
    Write,
    orders,
)
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from pyro_mcp.engine.cancel import CANCEL_SECONDS
from pyro_mcp.node.lifecycle import VERBS
from pyro_mcp.node.paths import MAX_CONTROL, NodePaths
from pyro_mcp.node.server import Node
from pyro_mcp.protocol.channel import Channel, RemoteError
from pyro_mcp.protocol.pipe import Pipe

STATUS_SECONDS, LOCK_SECONDS = 2.0, 5.0
"""As promised on a host that has time for it."""
BUSY = 10
"""How many times slower a busy host may be."""
STEPS = ["reset furnished", "reset recorded", "powered off", "terminated", "launched", "snapshot saved", "running"]
"""Where the node may be slow."""


class Slowness:
    """The node's fault points, some of which take a while."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, step: str) -> None:
        time.sleep(self.seconds.get(step, 0))


class World:
    """One node in this process, and two clients of it."""

    def __init__(self, state_dir: Path) -> None:
        self.slowness = Slowness()
        self.engine = engine_at(state_dir, idle_seconds=600, faults=self.slowness)
        self.node = Node(self.engine.settings, NodePaths.of(self.engine.settings), self.engine, VERBS)
        self.node.listen()
        self.node.serve()
        self._thread = threading.Thread(target=self.node.run)
        self._thread.start()
        self.clients = [self.client(), self.client()]

    def client(self) -> Channel:
        connection = self.node.paths.connect()
        assert connection is not None
        channel = Channel(Pipe(connection.detach()), initiator=True, hello={"role": "client"}, max_control=MAX_CONTROL)
        channel.start(10)
        return channel

    def call(self, verb: str, *, by: int = 0, **params: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self.clients[by].call(verb, params, timeout=60)
        return answer

    def create(self) -> None:
        self.call("create_workspace", environment="debian:12", name=REF, mem_mib=128, allow_host_compat=True)
        for name in "ab":
            self.call("write_workspace_file", workspace_id=REF, path=name, text="first\n")
        self.call("create_snapshot", workspace_id=REF, snapshot_name="s")

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self.node.leave("the test is over")
        self._thread.join(30)
        assert not self._thread.is_alive()
        assert list(processes_of(self.engine.settings.state_dir)) == []


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "state")
    yield world
    world.slowness.seconds = {}
    for row in world.engine.registry.rows():
        world.call("delete_workspace", workspace_id=row.workspace_id)
    world.close()


FIRST = {"a": "first\n", "b": "first\n"}
texts = st.integers(0, 10**9).map(lambda number: f"text {number}\n")
names = st.sampled_from(["s", "t"])
changes = st.one_of(
    st.builds(Write, path=st.sampled_from("ab"), text=texts),
    st.builds(Write, path=st.sampled_from("abc"), text=texts, new=st.just(True)),
    st.builds(Append, word=st.integers(0, 10**9).map(str)),
    st.builds(Patch, new=st.tuples(texts, texts)),
    st.builds(Read, path=st.sampled_from("ac")),
)
kinds = st.one_of(
    changes,
    changes,
    st.builds(Keep, name=names),
    st.builds(Drop, name=names),
    st.builds(Reset, name=names),
    st.just(Stop()),
    st.just(Start()),
)
programs = st.lists(kinds, min_size=1, max_size=3)
delays = st.dictionaries(st.sampled_from(STEPS), st.sampled_from([0.01, 0.05, 0.1]), max_size=3)


class TwoClients(RuleBasedStateMachine):
    world: World
    told = ""

    @initialize()
    def begin(self) -> None:
        self.world.create()
        self.states = [State(files=FIRST, snapshots={"s": FIRST})]

    @rule(left=programs, right=programs, slow=delays)
    def both_at_once(self, left: list[Op], right: list[Op], slow: dict[str, float]) -> None:
        self.run_both(left, right, slow)

    @rule(left=st.lists(changes, min_size=1, max_size=3), slow=delays)
    def deleted_meanwhile(self, left: list[Op], slow: dict[str, float]) -> None:
        self.run_both(left, [Delete()], slow)
        self.begin()

    @invariant()
    def it_is_kept(self) -> None:
        if hasattr(self, "states"):
            found = self.look()
            fitting = [state for state in self.states if self.kept(state, found)]
            if not fitting:
                print(f"found {found}\nallowed {self.states}\nafter {self.told}")
            assert fitting, "no state that the answers allow is the one that is there"
            self.states = fitting
            self.look_around()

    def teardown(self) -> None:
        self.world.slowness.seconds = {}
        if any(row.name == REF for row in self.world.engine.registry.rows()):
            self.world.call("delete_workspace", workspace_id=REF)

    # -- parts

    def run_both(self, left: list[Op], right: list[Op], slow: dict[str, float]) -> None:
        self.world.slowness.seconds = slow
        known = self.states[0].files
        ready = threading.Barrier(2)

        def client(number: int, ops: list[Op], rivals: list[Op]) -> Program:
            kinds = frozenset(type(op).__name__ for op in rivals)
            meant = [replace(op, rivals=kinds) for op in ops]
            meant = [replace(op, old=(known["a"], known["b"])) if isinstance(op, Patch) else op for op in meant]
            ready.wait()
            return tuple((op, self.seen(number, op)) for op in meant)

        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(client, 0, left, right)
            second = pool.submit(client, 1, right, left)
            seen = first.result(), second.result()
        self.world.slowness.seconds = {}
        found = orders(self.states, *seen)
        if not found:
            print(f"from {self.states}\nleft {seen[0]}\nright {seen[1]}\nslow {slow}")
        assert found, "no order explains what was answered"
        self.told = f"{seen} from {self.states}"
        self.states = found

    def seen(self, number: int, op: Op) -> Seen:
        try:
            return Seen(op.ask(lambda verb, **params: self.world.call(verb, by=number, **params)))
        except RemoteError as error:
            return Seen(refused=error.payload["code"])

    def look(self) -> dict[str, Any]:
        """What is there, as far as it can be seen."""
        if not any(row.name == REF for row in self.world.engine.registry.rows()):
            return {"there": False}
        begun = time.monotonic()
        status = self.world.call("status_workspace", workspace_id=REF)
        assert time.monotonic() - begun < STATUS_SECONDS * BUSY
        listed = self.world.call("list_snapshots", workspace_id=REF)["snapshots"]
        logs = self.world.call("logs_workspace", workspace_id=REF, limit=100)["entries"]
        found = {
            "there": True,
            "up": status["state"] == "started",
            "resets": status["reset_count"],
            "snapshots": {row["snapshot_name"] for row in listed} - {"baseline"},
            "commands": {(entry["command"], entry["exit_code"]) for entry in logs},
        }
        if found["up"]:
            entries = self.world.call("list_workspace_files", workspace_id=REF)["entries"]
            paths = [entry["path"].rpartition("/")[2] for entry in entries]
            read = {path: self.world.call("read_workspace_file", workspace_id=REF, path=path) for path in paths}
            found["files"] = {path: one["content"] for path, one in read.items()}
        return found

    def kept(self, state: State, found: dict[str, Any]) -> bool:
        if not state.there or not found["there"]:
            return state.there == found["there"]
        commands = {(command, 0) for command in state.commands}
        return (
            (state.up, state.resets, set(state.snapshots)) == (found["up"], found["resets"], found["snapshots"])
            and commands <= found["commands"]
            and ("files" not in found or dict(state.files) == found["files"])
        )

    def look_around(self) -> None:
        """Rows, directories and processes agree."""
        engine = self.world.engine
        rows = {row.machine_id for row in engine.fleet.rows()}
        state_dir = engine.settings.state_dir
        assert {path.name for path in state_dir.glob("machines/*")} == rows
        assert len(rows) == len(engine.registry.rows())
        assert {path.name for path in state_dir.glob("workspaces/*")} == {
            row.workspace_id for row in engine.registry.rows()
        }
        assert engine.database.check() == "ok"


def run(world: World, examples: int, steps: int) -> None:
    TwoClients.world = world
    bounds = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
        # What a race has shown once need not show again: there is nothing to replay or to make smaller.
        phases=[Phase.generate],
    )
    run_state_machine_as_test(TwoClients, settings=bounds)  # type: ignore[no-untyped-call]


def test_what_two_clients_see_fits_one_order(world: World) -> None:
    run(world, examples=6, steps=6)


@pytest.mark.slow
def test_what_two_clients_see_fits_one_order_for_long(world: World) -> None:
    run(world, examples=25, steps=15)


def version_of(world: World) -> set[str]:
    listed = world.call("list_workspace_files", workspace_id=REF, path="many")["entries"]
    assert len(listed) == MANY, "a file is missing"
    shown = world.call("exec_workspace", workspace_id=REF, command="cat many/*")["stdout"]
    return set(shown.split())


MANY = 60


def test_a_snapshot_holds_all_of_a_patch_or_nothing_of_it(world: World, tmp_path: Path) -> None:
    world.create()
    (tmp_path / "many").mkdir()
    for number in range(MANY):
        (tmp_path / "many" / f"f{number:02}").write_text("v0\n")
    world.call("push_workspace_sync", workspace_id=REF, source_path=str(tmp_path / "many"), dest="many")
    over = threading.Event()

    def patches() -> int:
        version = 0
        while not over.is_set():
            hunk = f"@@ -1 +1 @@\n-v{version}\n+v{version + 1}\n"
            files = [f"--- a/many/f{number:02}\n+++ b/many/f{number:02}\n{hunk}" for number in range(MANY)]
            world.call("apply_workspace_patch", workspace_id=REF, patch="".join(files))
            version += 1
        return version

    with ThreadPoolExecutor(1) as pool:
        patching = pool.submit(patches)
        taken = [f"n{number}" for number in range(12)]
        for name in taken:
            world.call("create_snapshot", workspace_id=REF, snapshot_name=name, by=1)
        over.set()
        last = patching.result()
    assert version_of(world) == {f"v{last}"}
    for name in taken:
        world.call("reset_workspace", workspace_id=REF, snapshot=name)
        assert len(version_of(world)) == 1


def test_a_command_does_not_end_up_in_the_history_of_a_reset_that_it_did_not_see(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.create()
    sessions = world.engine.sessions
    live = sessions.machine

    def reset_meanwhile(*given: Any) -> Any:
        machine = live(*given)
        monkeypatch.undo()
        world.call("reset_workspace", workspace_id=REF, snapshot="s", by=1)
        return machine

    monkeypatch.setattr(sessions, "machine", reset_meanwhile)
    with pytest.raises(RemoteError) as caught:
        world.call("exec_workspace", workspace_id=REF, command="echo lost >> log")
    assert caught.value.payload["code"] == "conflict"
    assert "was reset" in caught.value.payload["message"]
    assert world.call("logs_workspace", workspace_id=REF)["entries"] == []


@pytest.mark.parametrize(
    ("verb", "params"),
    [
        ("exec_workspace", {"command": "true"}),
        ("write_workspace_file", {"path": "a", "text": "x"}),
        ("open_shell", {}),
        ("start_service", {"service_name": "web", "command": "sleep 9"}),
    ],
)
def test_who_comes_in_the_moment_of_a_reset_is_told_so(
    world: World, monkeypatch: pytest.MonkeyPatch, verb: str, params: dict[str, Any]
) -> None:
    world.create()
    sessions = world.engine.sessions
    machine = sessions.machine_row

    def reset_meanwhile(row: Any) -> Any:
        monkeypatch.undo()
        world.call("reset_workspace", workspace_id=REF, snapshot="s", by=1)
        return machine(row)

    monkeypatch.setattr(sessions, "machine_row", reset_meanwhile)
    with pytest.raises(RemoteError) as caught:
        world.call(verb, workspace_id=REF, **params)
    assert caught.value.payload["code"] == "conflict", caught.value.payload
    assert "was reset or deleted meanwhile" in caught.value.payload["message"]


@pytest.mark.parametrize("verb", ["create_snapshot", "reset_workspace"])
def test_a_dead_client_holds_no_lock(world: World, verb: str) -> None:
    """Its agent does not answer any more, either: the worst that can hold a lock."""
    world.create()
    (seen,) = world.engine.fleet.list_processes()
    assert seen.pid
    os.kill(seen.pid, signal.SIGSTOP)
    params = {"create_snapshot": {"snapshot_name": "late"}, "reset_workspace": {"snapshot": "s"}}[verb]
    world.slowness.seconds = {"reset furnished": 1.0}
    dying = world.client()
    dying.open(verb, {"workspace_id": REF, **params})
    while world.engine.registry.lock(world.engine.registry.find(REF).workspace_id).acquire(blocking=False):
        world.engine.registry.lock(world.engine.registry.find(REF).workspace_id).release()
        time.sleep(0.01)
    dying.close()
    begun = time.monotonic()
    world.call("update_workspace", workspace_id=REF, labels={"mine": "now"})
    assert time.monotonic() - begun < LOCK_SECONDS * BUSY
    assert CANCEL_SECONDS < LOCK_SECONDS
    with contextlib.suppress(ProcessLookupError):
        os.kill(seen.pid, signal.SIGCONT)
