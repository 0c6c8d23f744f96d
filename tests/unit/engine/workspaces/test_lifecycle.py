"""The life of a workspace over machines that need no virtualisation: names, states, time, ends, and crashes."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fleetlab import CallRecorder, engine_at, processes_of

from pyro_mcp.api import exec as workspace_exec
from pyro_mcp.api import vm, workspace
from pyro_mcp.engine.engine import Engine
from pyro_mcp.engine.fleet import fleet
from pyro_mcp.errors import Capacity, Conflict, InvalidArgument, NotFound, PyroError, Unsupported
from pyro_mcp.machines.host.driver import HostDriver
from pyro_mcp.model.workspace import Workspace
from pyro_mcp.model.workspace_exec import WorkspaceExec
from pyro_mcp.node.adopt import reconcile
from pyro_mcp.node.reap import Reaper
from pyro_mcp.protocol.channel import ChannelClosed


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = engine_at(tmp_path / "state")
    yield engine
    for row in engine.registry.rows():
        engine.lifecycle.delete(row.workspace_id)
    assert list(processes_of(engine.settings.state_dir)) == []
    assert list((engine.settings.state_dir / "workspaces").glob("*")) == []
    assert list((engine.settings.state_dir / "machines").glob("*")) == []
    engine.close()


def create(engine: Engine, **changes: Any) -> Workspace:
    given = {"environment": "debian:12", "mem_mib": 128, "allow_host_compat": True, **changes}
    return workspace.create_workspace.function(CallRecorder(engine).call, **given)


def run(engine: Engine, ref: str, command: str, **changes: Any) -> WorkspaceExec:
    return workspace_exec.exec_workspace.function(CallRecorder(engine).call, ref, command=command, **changes)


def start(engine: Engine, ref: str) -> Workspace:
    return engine.lifecycle.start(CallRecorder(engine).call, ref)


def kill(engine: Engine, made: Workspace) -> None:
    """End its machine from outside, and wait until that is known."""
    (seen,) = engine.fleet.list_processes()
    assert seen.pid
    os.kill(seen.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while engine.lifecycle.status(made.workspace_id).state != "stopped":
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_whole_life(engine: Engine) -> None:
    made = create(engine, name="first", labels={"team": "a"})
    assert (made.state, made.name, made.labels, made.execution_mode) == (
        "started",
        "first",
        {"team": "a"},
        "host_compat",
    )
    assert (made.command_count, made.last_command, made.reset_count) == (0, None, 0)
    assert made.workspace_seed.mode == "empty"
    assert run(engine, "first", "echo kept > file").exit_code == 0
    assert engine.lifecycle.stop("first").state == "stopped"
    assert engine.lifecycle.stop("first").state == "stopped"
    with pytest.raises(Conflict, match="it is stopped") as refused:
        run(engine, "first", "true")
    assert refused.value.hint == "Start it with <<start_workspace(first)>> first"
    assert start(engine, made.workspace_id).state == "started"
    assert run(engine, "first", "cat file").stdout == "kept\n"
    status = engine.lifecycle.status("first")
    assert (status.command_count, status.last_command and status.last_command.command) == (2, "cat file")
    assert engine.lifecycle.delete("first").deleted
    with pytest.raises(NotFound, match="'first'"):
        engine.lifecycle.status("first")


def test_names_are_bounded_printable_and_may_be_ambiguous(engine: Engine) -> None:
    for bad in ("", " ", "x" * 65, "a\nb", "a\x1b[31m", "ws-0123456789ab"):
        with pytest.raises(InvalidArgument):
            create(engine, name=bad)
    for labels in ({"": "x"}, {"a b": "x"}, {"a": "x" * 257}, {"a": "\n"}, {f"k{n}": "" for n in range(33)}):
        with pytest.raises(InvalidArgument):
            create(engine, labels=labels)
    assert engine.registry.rows() == []
    one, two = create(engine, name="twin"), create(engine, name=" twin ")
    with pytest.raises(Conflict, match="2 have that name") as caught:
        engine.lifecycle.status("twin")
    assert one.workspace_id in str(caught.value)
    assert two.workspace_id in str(caught.value)
    alone, blank = create(engine, name="alone"), create(engine, name="a b")
    find, handle = engine.registry.find, engine.registry.handle
    handles = [handle(find(made.workspace_id)) for made in (one, alone, blank)]
    assert handles == [one.workspace_id, "alone", blank.workspace_id]


def test_update_changes_what_is_named_and_nothing_else(engine: Engine) -> None:
    made = create(engine, name="old", labels={"a": "1", "b": "2"})
    update = engine.lifecycle.update
    plain: dict[str, Any] = {"name": None, "clear_name": False, "labels": None, "clear_labels": None}
    changed = update("old", **{**plain, "name": "new", "labels": {"b": "3"}, "clear_labels": ["a"]})
    assert (changed.name, changed.labels) == ("new", {"b": "3"})
    assert update("new", **{**plain, "clear_name": True}).name is None
    colliding = {"labels": {"a": ""}, "clear_labels": ["a"]}
    for requested in ({}, {"name": "x", "clear_name": True}, colliding):
        with pytest.raises(InvalidArgument):
            update(made.workspace_id, **{**plain, **requested})


def test_the_list_is_sorted_by_activity(engine: Engine) -> None:
    names = ["a", "b", "c"]
    for name in names:
        create(engine, name=name)
    run(engine, "a", "true")
    listed = engine.lifecycle.listing(limit=1000, offset=0)
    assert [one.name for one in listed] == ["a", "c", "b"]
    assert listed.count == len(listed) == 3


def test_one_that_died_is_stopped_and_comes_back_with_its_data(engine: Engine) -> None:
    made = create(engine)
    run(engine, made.workspace_id, "echo kept > file")
    kill(engine, made)
    assert "ended unexpectedly" in engine.lifecycle.status(made.workspace_id).metadata["reason"]
    recorder = CallRecorder(engine)
    done = engine.commands.exec(
        recorder.call, made.workspace_id, command="cat file", timeout_seconds=10, wait_seconds=None, stdin=None
    )
    assert done.stdout == "kept\n"
    assert "starting it again" in recorder.notices[0]


def test_what_one_that_died_lacks_to_start_again_is_named(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: Any) -> None:
        raise NotFound("cannot open environment 0123: its image is gone or damaged", hint="Create the machine again")

    made = create(engine)
    kill(engine, made)
    monkeypatch.setattr(engine.lifecycle._provisioner, "again", gone)
    with pytest.raises(NotFound, match="its image is gone"):
        run(engine, made.workspace_id, "true")


@pytest.mark.parametrize("threads", [True, False])
def test_one_whose_agent_was_given_up_ends_and_comes_back_with_its_data(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, threads: bool
) -> None:
    def lacking(work: object, name: str) -> None:
        raise Capacity("cannot start a thread: there is none")

    made = create(engine)
    run(engine, made.workspace_id, "echo kept > file")
    machine_id = made.metadata["machine_id"]
    machine = engine.fleet.live(machine_id)
    with monkeypatch.context() as patch:
        if not threads:
            patch.setattr(fleet, "begin", lacking)
        machine.channel.close("its agent stopped answering")
    deadline = time.monotonic() + 30
    while engine.lifecycle.status(made.workspace_id).state != "stopped":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not machine.alive()
    reason = engine.lifecycle.status(made.workspace_id).metadata["reason"]
    assert reason == "its agent was given up: its agent stopped answering"
    assert run(engine, made.workspace_id, "cat file").stdout == "kept\n"


def test_its_machine_is_not_for_the_vm_verbs(engine: Engine) -> None:
    made = create(engine)
    call = CallRecorder(engine).call
    for verb in (vm.delete_vm, vm.stop_vm, vm.status_vm, vm.start_vm):
        with pytest.raises(Conflict, match=made.workspace_id):
            verb.function(call, made.metadata["machine_id"])
    with pytest.raises(NotFound) as unknown:
        vm.status_vm.function(call, "vm-000000000000")
    assert unknown.value.hint == "There are none; create one first"


def test_it_expires_by_itself_and_others_do_not(engine: Engine) -> None:
    reaper = Reaper(engine)
    reaper.start()
    try:
        short, long = create(engine, ttl_seconds=1), create(engine)
        deadline = time.monotonic() + 60
        while short.workspace_id in {row.workspace_id for row in engine.registry.rows()}:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert engine.lifecycle.status(long.workspace_id).state == "started"
    finally:
        reaper.stop()


def test_one_that_is_held_by_a_guest_without_an_end_expires_all_the_same_and_so_do_others(engine: Engine) -> None:
    """A snapshot, say, of a guest that sends a byte a minute."""
    held, told = threading.Event(), []

    def listen(ref: str) -> None:
        with engine.registry.locked(ref) as row:
            channel = engine.sessions.machine(CallRecorder(engine).call, row).channel
            held.set()
            with pytest.raises(ChannelClosed) as caught:
                channel.call("exec", {"argv": ["sleep", "1000"]})
            told.append(str(caught.value))

    reaper = Reaper(engine)
    reaper.start()
    try:
        listener = threading.Thread(target=listen, args=[create(engine, ttl_seconds=3).workspace_id])
        listener.start()
        assert held.wait(30)
        create(engine, ttl_seconds=3)
        deadline = time.monotonic() + 60
        while engine.registry.rows():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        listener.join(30)
        assert told == ["the workspace is being removed: its 3 s to live have passed"]
    finally:
        reaper.stop()


def test_one_that_expires_while_it_is_made_leaves_nothing(tmp_path: Path) -> None:
    class Slow(HostDriver):
        def launch(self, spec: Any, progress: Any) -> Any:
            time.sleep(1.5)
            return super().launch(spec, progress)

    engine = engine_at(tmp_path / "state", driver=Slow())
    reaper = Reaper(engine)
    reaper.start()
    try:
        assert create(engine, ttl_seconds=1).state == "started"
        deadline = time.monotonic() + 60
        while engine.registry.rows() or engine.fleet.rows():
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        reaper.stop()
    assert list((tmp_path / "state" / "workspaces").glob("*")) == []
    engine.close()


def test_many_are_made_at_once_and_each_is_its_own(engine: Engine) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda number: create(engine, name=f"n{number}"), range(8)))
        said = list(pool.map(lambda one: run(engine, one.workspace_id, f"echo {one.name} > f; cat f").stdout, made))
    assert said == [f"n{number}\n" for number in range(8)]


def test_what_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    class Broken(HostDriver):
        def launch(self, spec: Any, progress: Any) -> Any:
            raise PyroError("cannot boot: it is broken")

    engine = engine_at(tmp_path / "state", driver=Broken())
    with pytest.raises(PyroError, match="it is broken"):
        create(engine)
    with pytest.raises(Unsupported):
        create(engine, network_policy="egress", allow_hosts=["a.test"])
    assert engine.registry.rows() == []
    assert engine.fleet.rows() == []
    assert list((tmp_path / "state" / "workspaces").glob("*")) == []
    engine.close()


def test_after_a_reboot_it_is_stopped_and_starts_again(tmp_path: Path) -> None:
    engine = engine_at(tmp_path / "state")
    made = create(engine, name="kept")
    run(engine, "kept", "echo kept > file")
    (seen,) = engine.fleet.list_processes()
    assert seen.pid
    engine.close()
    os.kill(seen.pid, signal.SIGKILL)
    again = engine_at(tmp_path / "state")
    again.clock.boot_id = "another boot"
    reconcile(again)
    assert again.lifecycle.status("kept").state == "stopped"
    assert start(again, made.workspace_id).state == "started"
    assert run(again, "kept", "cat file").stdout == "kept\n"
    assert again.commands.count(again.registry.find("kept")) == 2
    again.lifecycle.delete("kept")
    again.close()
