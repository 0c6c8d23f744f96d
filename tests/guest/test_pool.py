"""Machines restored ahead, as real guests: whose they become, that they are as fresh as any other, and that they give
way and end."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pyro_mcp.engine.engine import Engine
from pyro_mcp.engine.fleet import pool as pool_module
from pyro_mcp.errors import Capacity
from pyro_mcp.machines.driver import Image, MachineSpec, NetworkLink, WorkspaceMount
from pyro_mcp.machines.qemu.ahead import QemuAhead
from pyro_mcp.machines.qemu.command import DISK_BYTES
from pyro_mcp.machines.qemu.driver import QemuDriver, QemuMachine
from pyro_mcp.machines.qemu.stall import is_stalled
from pyro_mcp.machines.template import RAM
from pyro_mcp.node.adopt import reconcile
from pyro_mcp.protocol.channel import Data, RemoteError, StreamResult
from pyro_mcp.system.progress import silent

pytestmark = pytest.mark.guest

END_SECONDS = 60.0


@pytest.fixture
def lab(environment: Image) -> ModuleType:
    sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "support"))
    import fleetlab

    return fleetlab


@pytest.fixture
def engine(lab: ModuleType, tmp_path: Path) -> Iterator[Engine]:
    made: Engine = lab.guest_engine_at(tmp_path / "state", **lab.POOL)
    yield made
    made.stop_all()
    made.close()
    assert list(lab.processes_of(tmp_path / "state")) == []


@pytest.fixture
def ahead(driver: QemuDriver, new_spec: Callable[..., MachineSpec]) -> Iterator[Callable[[], QemuAhead]]:
    """Make warm machines that are nobody's; ended with the test."""
    made: list[QemuAhead] = []
    driver.launch(new_spec(), silent).terminate()  # so that there is a template

    def make() -> QemuAhead:
        spec = new_spec()
        kind = driver.kind(spec)
        assert kind is not None
        found = driver.prepare(spec, kind)
        assert found is not None
        made.append(found)
        found.warm(lambda: False)
        return found

    yield make
    for one in made:
        one.terminate()


def given(driver: QemuDriver, ahead: QemuAhead, spec: MachineSpec) -> QemuMachine:
    """What the pool does to hand one out."""
    os.rename(ahead.process.directory, spec.directory)
    return driver.hand_out(ahead, spec)


def sh(machine: QemuMachine, line: str) -> str:
    stream = machine.channel.open("exec", {"argv": ["sh", "-c", line], "env": {}, "timeout_seconds": 60})
    output = bytearray()
    for message in stream.messages():
        if isinstance(message, Data):
            output += message.data
        elif isinstance(message, StreamResult):
            assert message.value["exit_code"] == 0, output
    return output.decode().strip()


def run(engine: Engine, lab: ModuleType, command: str = "true", **size: Any) -> Any:
    call = lab.CallRecorder(engine).call
    options = {**lab.GUEST_SIZE, **size}
    return engine.vms.run(call, "debian:12", command=command, timeout_seconds=60, stdin=None, **options)


def start(engine: Engine, lab: ModuleType, **size: Any) -> Any:
    """A machine that runs: its id, and its process."""
    call = lab.CallRecorder(engine).call
    vm_id = engine.vms.create(call, "debian:12", **{**lab.GUEST_SIZE, **size}).vm_id
    engine.vms.start(call, vm_id)
    return vm_id, next(seen.pid for seen in engine.fleet.list_processes() if seen.row.machine_id == vm_id)


# -- as fresh as any other


def test_what_is_handed_out_differs_in_all_and_knows_the_time(
    driver: QemuDriver, new_spec: Callable[..., MachineSpec], ahead: Callable[[], QemuAhead]
) -> None:
    """Both were warmed side by side, from one template, before either was anybody's."""
    line = (
        "hostname; cat /etc/machine-id /proc/sys/kernel/random/boot_id; head -c 32 /dev/urandom | od -An -tx1; date +%s"
    )
    waiting = [ahead() for _ in range(3)]
    seen, tokens, bounds = [], set(), []
    for one in waiting:
        spec = new_spec()
        handed_out_at = int(time.time())
        machine = given(driver, one, spec)
        tokens.add((spec.directory / "token").read_text())
        seen.append(sh(machine, line).splitlines())
        bounds.append((spec.machine_id, handed_out_at, time.time()))
    for index in range(len(seen[0]) - 1):
        assert len({lines[index] for lines in seen}) == 3, [lines[index] for lines in seen]
    assert len(tokens) == 3
    for lines, (machine_id, handed_out_at, asked_at) in zip(seen, bounds, strict=True):
        assert lines[0] == machine_id
        assert handed_out_at <= int(lines[-1]) <= asked_at


def test_one_that_waits_runs_nothing_of_anybody_and_is_configured_once(
    driver: QemuDriver, new_spec: Callable[..., MachineSpec], ahead: Callable[[], QemuAhead]
) -> None:
    waiting = ahead()
    for verb, params in (("exec", {"argv": ["true"]}), ("secret_put", {}), ("network_up", {}), ("tcp_connect", {})):
        with pytest.raises(RemoteError, match="not configured yet"):
            waiting.channel.call(verb, params, 30)
    machine = given(driver, waiting, new_spec())
    for verb in ("configure", "warm"):
        params = {"time_ns": 1, "entropy": "A" * 64, "hostname": "x", "machine_id": "x", "token": "x"}
        with pytest.raises(RemoteError, match="configured already"):
            machine.channel.call(verb, {**params, "argv": ["true"]}, 30)
    assert sh(machine, "cat /proc/uptime && ls -A /root /tmp | grep -v '^\\.\\(bashrc\\|profile\\)' ").split("\n")[
        1:
    ] == [
        "/root:",
        "",
        "/tmp:",
    ]


def test_a_seed_and_a_network_come_with_the_hand_out(
    driver: QemuDriver, new_spec: Callable[..., MachineSpec], ahead: Callable[[], QemuAhead], tmp_path: Path
) -> None:
    tree, image = tmp_path / "tree", tmp_path / "seed.erofs"
    tree.mkdir()
    (tree / "file").write_text("of the seed\n")
    subprocess.run(["mkfs.erofs", "--all-root", str(image), str(tree)], check=True, capture_output=True)
    os.truncate(image, DISK_BYTES)
    asked: list[str] = []

    def handler(stream: Any) -> None:
        asked.append(stream.verb)
        stream.error({"code": "refused", "message": "not here"})

    spec = dataclasses.replace(
        new_spec(), seed=image, workspace=WorkspaceMount(), network=NetworkLink(handler, ca=None)
    )
    machine = given(driver, ahead(), spec)
    assert sh(machine, "cat file; echo mine > file; cat file") == "of the seed\nmine"
    assert sh(machine, "getent hosts somewhere.test || cat /etc/resolv.conf") == "nameserver 192.0.0.1"
    assert "net_resolve" in asked


def test_one_that_its_node_leaves_ends_by_itself(ahead: Callable[[], QemuAhead]) -> None:
    waiting = ahead()
    gone = threading.Event()
    waiting.on_exit(gone.set)
    waiting.channel.close("the node dies")
    assert gone.wait(END_SECONDS)


def test_one_that_was_stopped_for_want_of_room_is_handed_out_once_there_is_some(
    driver: QemuDriver, ahead: Callable[[], QemuAhead], new_spec: Callable[..., MachineSpec]
) -> None:
    waiting = ahead()
    before = resource.prlimit(waiting.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    words = "dd if=/dev/vdd of=/dev/vdd bs=4k count=1 conv=fsync,notrunc"
    entropy = base64.b64encode(bytes(64)).decode()
    params = {"entropy": entropy, "argv": ["sh", "-c", words], "env": {}, "timeout_seconds": 60}
    stream = waiting.channel.open("warm", params)
    deadline = time.monotonic() + END_SECONDS
    while not is_stalled(waiting.process):
        assert time.monotonic() < deadline
    resource.prlimit(waiting.pid, resource.RLIMIT_FSIZE, before)
    spec = new_spec()
    machine = given(driver, waiting, spec)
    assert machine.pid == waiting.pid
    assert sh(machine, "hostname") == spec.machine_id
    stream.leave()
    machine.terminate()


def test_a_machine_that_was_handed_out_outlives_its_node(
    driver: QemuDriver, new_spec: Callable[..., MachineSpec], ahead: Callable[[], QemuAhead], cache_dir: Path
) -> None:
    spec = new_spec()
    machine = given(driver, ahead(), spec)
    machine.channel.close("the node dies")
    again = QemuDriver(cache_dir, accelerator="tcg").adopt(spec.machine_id, spec.directory)
    assert again is not None
    assert again.pid == machine.pid
    assert sh(again, "hostname") == spec.machine_id


# -- the pool


def test_the_next_of_a_kind_gets_what_waits_and_another_takes_its_place(engine: Engine, lab: ModuleType) -> None:
    run(engine, lab)
    (first,) = lab.waiting_ahead(engine)
    vm_id, pid = start(engine, lab)
    assert pid == first.ahead.pid
    assert engine.fleet.directory(vm_id).is_dir()
    assert not first.spec.directory.exists()
    (second,) = lab.waiting_ahead(engine)
    assert second.ahead.pid != pid
    assert run(engine, lab, "hostname").stdout.strip().startswith("vm-")


def test_one_on_its_way_is_given_to_who_asks_meanwhile(engine: Engine, lab: ModuleType) -> None:
    run(engine, lab)
    pool = engine.fleet.pool
    with pool._changed:
        assert pool._changed.wait_for(lambda: pool._pooled and pool._pooled[0].ahead, END_SECONDS)
    (place,) = pool._pooled
    _, pid = start(engine, lab)
    assert pid == place.ahead.pid  # type: ignore[union-attr]


def test_it_never_takes_room_from_a_machine_that_somebody_asks_for(engine: Engine, lab: ModuleType) -> None:
    """1,792 MiB in all, and a machine of 896 MiB waits: 512 and what QEMU takes besides."""
    run(engine, lab)
    lab.waiting_ahead(engine)
    kept, _ = start(engine, lab)
    (waiting,) = lab.waiting_ahead(engine)
    gone = threading.Event()
    waiting.ahead.on_exit(gone.set)
    other, pid = start(engine, lab, mem_mib=384)
    assert pid != waiting.ahead.pid
    assert gone.wait(END_SECONDS)
    assert engine.fleet.pool.waiting() == []
    with pytest.raises(Capacity, match="1664 of 1792 MiB are taken"):
        start(engine, lab)
    engine.vms.delete(other)
    engine.vms.delete(kept)
    lab.waiting_ahead(engine)


def test_one_whose_template_is_gone_is_ended_and_never_handed_out(
    engine: Engine, lab: ModuleType, new_spec: Callable[..., MachineSpec]
) -> None:
    run(engine, lab, mem_mib=320)
    (waiting,) = lab.waiting_ahead(engine)
    gone = threading.Event()
    waiting.ahead.on_exit(gone.set)
    # The engine's own, whatever QEMU the other tests here are run with: each has templates of its own.
    driver = engine.fleet.pool._uses[waiting.kind].preparer
    assert isinstance(driver, QemuDriver)
    template = driver._templates.get(driver._kind(new_spec(mem_mib=320, scratch_mib=waiting.spec.size.scratch_mib)))
    assert template is not None
    os.utime(template.directory / RAM)
    _, pid = start(engine, lab, mem_mib=320)
    assert pid != waiting.ahead.pid
    assert gone.wait(END_SECONDS)
    (renewed,) = lab.waiting_ahead(engine)
    assert renewed.kind != waiting.kind
    assert list(engine.fleet.pool._uses) == [renewed.kind]


def test_what_nobody_uses_any_more_is_ended(engine: Engine, lab: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    run(engine, lab)
    lab.waiting_ahead(engine)
    monkeypatch.setattr(pool_module, "UNUSED_SECONDS", 0.0)
    engine.fleet.pool.disturb()
    pool = engine.fleet.pool
    with pool._changed:
        assert pool._changed.wait_for(lambda: not any(pool.home.iterdir()), END_SECONDS)
    assert pool.waiting() == []


def test_one_that_dies_is_removed_and_the_next_machine_is_made_anew(engine: Engine, lab: ModuleType) -> None:
    run(engine, lab)
    (waiting,) = lab.waiting_ahead(engine)
    os.kill(waiting.ahead.pid, signal.SIGKILL)
    lab.waiting_ahead(engine, 0)
    assert run(engine, lab)["exit_code"] == 0


def test_one_that_cannot_be_handed_out_is_replaced_by_a_new_one(
    engine: Engine, lab: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    run(engine, lab)
    (waiting,) = lab.waiting_ahead(engine)
    waiting.ahead.channel._pipe.close()  # its agent hears no more
    _, pid = start(engine, lab)
    assert pid != waiting.ahead.pid
    assert "is made anew" in caplog.text


def test_pruning_ends_what_waits(engine: Engine, lab: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    run(engine, lab)
    lab.waiting_ahead(engine)
    monkeypatch.setattr(engine.images._environments, "prune", lambda **_: engine.fleet.pool.waiting())
    assert engine.fleet.prune(everything=False, dry_run=True) != []  # type: ignore[comparison-overlap]
    assert engine.fleet.prune(everything=False, dry_run=False) == []  # type: ignore[comparison-overlap]


@pytest.mark.parametrize("size", [0, None])
def test_it_is_off_by_setting_and_where_memory_is_short(
    lab: ModuleType, tmp_path: Path, size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYRO_POOL_SIZE")
    monkeypatch.setattr(pool_module, "available_mib", lambda: pool_module.AMPLE_MIB - 1)
    engine = lab.guest_engine_at(tmp_path / "state", pool_size=size)
    try:
        run(engine, lab)
        pool = engine.fleet.pool
        with pool._changed:
            idle = size == 0 or pool._changed.wait_for(
                lambda: all(use.tried for use in pool._uses.values()), END_SECONDS
            )
            assert idle
            assert len(pool._uses) == (0 if size == 0 else 1)
            assert pool._next() is None
            assert pool._pooled == []
    finally:
        engine.close()


def test_a_node_killed_at_every_step_of_the_pool_leaves_nothing(tmp_path: Path, lab: ModuleType) -> None:
    """Filling, handing out, giving way."""
    names: list[str] = []
    while True:
        state_dir = tmp_path / f"{len(names)}"
        argv = [sys.executable, lab.__file__, str(state_dir), "pool", str(len(names) + 1), "guest", "pool"]
        child = subprocess.run(argv, capture_output=True, text=True, timeout=600, check=False)
        names.append(child.stdout.strip().splitlines()[-1] if child.stdout.strip() else child.stderr)
        if names[-1] == "done":
            break
        assert child.returncode == -signal.SIGKILL, child.stdout + child.stderr
        engine = lab.guest_engine_at(state_dir)
        reconcile(engine)
        assert not engine.fleet.pool.home.exists(), names[-1]
        assert list(lab.processes_of(state_dir)) == [], names[-1]
        for row in engine.fleet.rows():
            engine.vms.start(lab.CallRecorder(engine).call, row.machine_id)
            engine.vms.delete(row.machine_id)
        assert list((state_dir / "machines").glob("*")) == [], names[-1]
        engine.close()
        assert list(lab.processes_of(state_dir)) == [], names[-1]
    assert {
        "pool directory made",
        "pool spawned",
        "pool warmed",
        "pool moved",
        "pool handed out",
        "pool evicted",
    } <= set(names)


# -- with its node


@pytest.fixture
def pyro(tmp_path: Path) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """The command line, over a state directory of this test's own and with a pool."""
    environ = {**os.environ, "PYRO_STATE_DIR": str(tmp_path / "state"), "PYRO_POOL_SIZE": "1"}

    def call(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
        argv = [str(Path(sys.executable).with_name("pyro")), *words]
        return subprocess.run(
            argv, env={**environ, **more}, capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path
        )

    yield call
    call("node", "stop", "--force")


def with_one_ahead(pyro: Callable[..., subprocess.CompletedProcess[str]], **more: str) -> tuple[int, int]:
    """The process of the node and that of what waits in its pool, as `node status` tells them."""
    done = pyro("run", "--mem-mib", "512", "debian:12", "--", "true", **more)
    assert done.returncode == 0, done.stderr
    deadline = time.monotonic() + END_SECONDS
    while time.monotonic() < deadline:
        status = json.loads(pyro("node", "status", "--json", **more).stdout)
        if status["pool"]:
            (waiting,) = status["pool"]
            assert (waiting["environment"], waiting["mem_mib"], status["pool_size"]) == ("debian:12", 512, 1)
            assert (status["machine_count"], status["memory_committed_mib"]) == (0, 0)
            return int(status["pid"]), int(waiting["pid"])
        time.sleep(0.1)
    raise AssertionError(status)


def ends(pid: int, act: Callable[[], object] = lambda: None) -> bool:
    """Whether the process is gone soon after `act`."""
    descriptor = os.pidfd_open(pid)
    try:
        act()
        return bool(select.select([descriptor], [], [], END_SECONDS)[0])
    finally:
        os.close(descriptor)


def test_stopping_the_node_ends_what_waits(pyro: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    _, waiting = with_one_ahead(pyro)
    stopped: list[subprocess.CompletedProcess[str]] = []
    assert ends(waiting, lambda: stopped.append(pyro("node", "stop", "--json")))
    assert json.loads(stopped[0].stdout) == {"stopped": True, "machine_count": 0}


def test_a_node_with_nothing_else_leaves_when_it_is_idle_and_takes_them_along(
    pyro: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    node, waiting = with_one_ahead(pyro, PYRO_IDLE_SECONDS="3")
    assert ends(waiting)
    assert ends(node)


def test_a_node_that_is_killed_takes_them_along(pyro: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    node, waiting = with_one_ahead(pyro)
    assert ends(waiting, lambda: os.kill(node, signal.SIGKILL))
    assert with_one_ahead(pyro)[1] != waiting
