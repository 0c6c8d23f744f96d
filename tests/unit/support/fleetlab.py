"""An engine over machines that need no virtualisation: the host_compat driver, whose agent is the real one.

`python fleetlab.py STATE_DIR ACTION N [guest [PREFIX]]` runs ACTION in a process of its own that kills itself at the
N-th fault point, of those whose names begin with PREFIX; it prints the step's name, or `done` when there was no N-th.
With `guest` the machines are real guests.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pyro_mcp.engine.engine import Engine
from pyro_mcp.engine.faults import Faults, no_faults
from pyro_mcp.errors import IsolationUnavailable
from pyro_mcp.machines.host.driver import HostDriver
from pyro_mcp.machines.qemu.command import OVERHEAD_MIB
from pyro_mcp.operations.call import Call
from pyro_mcp.settings import Settings
from pyro_mcp.store.database import Database

SIZE = {"vcpu_count": 1, "mem_mib": 128, "ttl_seconds": 600, "network": False, "allow_host_compat": True}
AHEAD_SECONDS = 120.0
POOL = {"pool_size": 1, "memory_limit_mib": 1024 + 2 * OVERHEAD_MIB["tcg"]}
"""Settings of an engine that makes a machine of `GUEST_SIZE` ahead and has no room for another."""
GUEST_SIZE = {**SIZE, "mem_mib": 512, "allow_host_compat": False}


class HostOnly:
    """Drivers of a host on which no guest can boot."""

    def __init__(self, driver: Any = None) -> None:
        self._driver = driver or HostDriver()

    def require_guest(self) -> None:
        raise IsolationUnavailable("cannot start a guest: not here")

    def guest(self, *_: Any) -> Any:
        raise AssertionError

    def host(self) -> Any:
        return self._driver

    def likely(self) -> Any:
        return self._driver

    def by_isolation(self, isolation: str) -> Any:
        return self._driver


class NoEnvironments:
    """A catalogue that knows every name and has no images."""

    catalog_version = "0"

    def inspect(self, name: str) -> None:
        return None


def engine_at(state_dir: Path, *, faults: Faults = no_faults, driver: Any = None, **overrides: Any) -> Engine:
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    settings = Settings.load(state_dir=state_dir, cache_dir=state_dir / "cache", **overrides)
    database = Database(state_dir / "pyro.db")
    return Engine(settings, database, drivers=HostOnly(driver), environments=NoEnvironments(), faults=faults)


def guest_engine_at(state_dir: Path, *, faults: Faults = no_faults, **overrides: Any) -> Engine:
    """An engine with the real drivers and environments, over the user's image cache."""
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Engine(Settings.load(state_dir=state_dir, **overrides), Database(state_dir / "pyro.db"), faults=faults)


def waiting_ahead(engine: Engine, count: int = 1) -> list[Any]:
    """The machines that wait in the pool, once there are `count`."""
    pool = engine.fleet.pool
    with pool._changed:
        assert pool._changed.wait_for(lambda: len(pool.waiting()) == count, AHEAD_SECONDS), pool._pooled
    return pool.waiting()


class CallRecorder:
    """A call that remembers what it was told."""

    def __init__(self, engine: Engine) -> None:
        self.notices: list[str] = []
        self.output = {1: b"", 2: b""}
        self.wrote = threading.Event()
        self.call: Call[Engine] = Call(engine, engine.settings, lambda *_: None, self.notices.append, self._write)

    def _write(self, tag: int, data: bytes) -> None:
        self.output[tag] += data
        self.wrote.set()


def act_run(engine: Engine) -> None:
    engine.vms.run(CallRecorder(engine).call, "debian:12", command="echo hello", timeout_seconds=20, stdin=None, **SIZE)


def act_life(engine: Engine) -> None:
    """Every transition of a machine that is not one-shot."""
    call = CallRecorder(engine).call
    made = engine.vms.create(call, "debian:12", **SIZE)
    engine.vms.start(call, made.vm_id)
    engine.vms.stop(made.vm_id)
    engine.vms.start(call, made.vm_id)
    engine.vms.delete(made.vm_id)


def act_guest(engine: Engine) -> None:
    engine.vms.run(CallRecorder(engine).call, "debian:12", command="true", timeout_seconds=60, stdin=None, **GUEST_SIZE)


def act_pool(engine: Engine) -> None:
    """A machine that finds none ahead, one that does, and one that needs the room of what waits."""
    act_guest(engine)
    waiting_ahead(engine)
    call = CallRecorder(engine).call
    made = engine.vms.create(call, "debian:12", **GUEST_SIZE)
    engine.vms.start(call, made.vm_id)
    engine.vms.delete(made.vm_id)
    waiting_ahead(engine)
    large = engine.vms.create(call, "debian:12", **{**GUEST_SIZE, "mem_mib": 1024})
    engine.vms.delete(large.vm_id)
    engine.close()


def act_workspace(engine: Engine) -> None:
    """Everything in a workspace's life that changes it; after each step its name is written to `acks`."""
    from pyro_mcp.api.workspace import create_workspace

    state_dir = engine.settings.state_dir
    call = CallRecorder(engine).call
    seed = state_dir / "host"
    seed.mkdir()
    (seed / "file").write_text("one\n")

    def acknowledged(step: str) -> None:
        with (state_dir / "acks").open("a") as file:
            file.write(f"{step}\n")

    def write(text: str) -> None:
        engine.commands.exec(
            call, "w", command=f"echo {text} > file", timeout_seconds=20, wait_seconds=None, stdin=None
        )

    options = {"mem_mib": 128, "allow_host_compat": True, "seed_path": str(seed)}
    create_workspace.function(call, environment="debian:12", name="w", **options)
    acknowledged("created")
    write("two")
    acknowledged("wrote two")
    engine.snapshots.create(call, "w", "s")
    acknowledged("snapshot")
    write("three")
    acknowledged("wrote three")
    engine.snapshots.reset(call, "w", "s")
    acknowledged("reset")
    engine.lifecycle.stop("w")
    engine.lifecycle.start(call, "w")
    acknowledged("started")
    engine.snapshots.delete("w", "s")
    acknowledged("unkept")
    engine.lifecycle.delete("w")
    acknowledged("deleted")


def act_service(engine: Engine) -> None:
    """A service with a published port from its start to its stop; acknowledged steps go to `acks`."""
    from pyro_mcp.api.service import start_service, stop_service
    from pyro_mcp.api.workspace import create_workspace

    call = CallRecorder(engine).call
    policy = "egress+published-ports"
    options = {"name": "w", "mem_mib": 128, "allow_host_compat": True, "network_policy": policy}
    create_workspace.function(call, environment="debian:12", **options)
    inside, outside = (engine.settings.state_dir / "ports").read_text().split()
    program = f"import socket\ns=socket.create_server(('127.0.0.1',{inside}))\nwhile 1: s.accept()[0].sendall(b'hello')"
    start_service.function(
        call,
        "w",
        "web",
        command=["python3", "-c", program],
        readiness={"tcp": f"127.0.0.1:{inside}"},
        ready_interval_ms=20,
        published_ports=[f"{outside}:{inside}"],
    )
    with (engine.settings.state_dir / "acks").open("a") as file:
        file.write("started\n")
    stop_service.function(call, "w", "web")
    with (engine.settings.state_dir / "acks").open("a") as file:
        file.write("stopped\n")
    engine.lifecycle.delete("w")


ACTIONS: dict[str, Callable[[Engine], None]] = {
    "run": act_run,
    "life": act_life,
    "guest": act_guest,
    "pool": act_pool,
    "workspace": act_workspace,
    "service": act_service,
}


def _killer(countdown: int, prefix: str = "") -> Faults:
    def faults(step: str) -> None:
        nonlocal countdown
        countdown -= step.startswith(prefix)
        if countdown == 0:
            print(step, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

    return faults


def main(argv: list[str]) -> int:
    make = guest_engine_at if argv[3:4] == ["guest"] else engine_at
    overrides = POOL if argv[1] == "pool" else {}
    engine = make(Path(argv[0]), faults=_killer(int(argv[2]), *argv[4:]), **overrides)
    ACTIONS[argv[1]](engine)
    print("done", flush=True)
    return 0


def processes_of(state_dir: Path) -> Iterator[int]:
    """Processes that work in or were started with something below `state_dir`."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes().decode("utf-8", "replace")
                if str(state_dir) in words or str(state_dir) in os.readlink(entry / "cwd"):
                    yield int(entry.name)
            except OSError:
                continue


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
