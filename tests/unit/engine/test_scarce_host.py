"""A host with only N descriptors, threads or processes left, for every N: done or a typed refusal, and nothing left."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fleetlab import CallRecorder, engine_at, processes_of

from pyro_mcp.api import exec as workspace_exec
from pyro_mcp.api import export, service, shell, snapshot, sync, workspace
from pyro_mcp.api import file as files
from pyro_mcp.engine.engine import Engine
from pyro_mcp.errors import PyroError

MOST = 30
SETTLE_SECONDS = 10.0
NEEDED_BY = {
    "descriptors": ("create", "exec", "push", "export", "reset"),
    "threads": ("create", "exec that goes on", "write", "push", "reset", "service"),
    "processes": ("create", "reset"),
}
"""What cannot be done without even one."""
LIVING = ("service", "shell")
SMALL = {"mem_mib": 128, "allow_host_compat": True, "network_policy": "egress+published-ports"}


@contextlib.contextmanager
def descriptors(left: int) -> Iterator[None]:
    """Only so many more may be opened in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    top = max(int(name) for name in os.listdir("/proc/self/fd")) + 1 + left
    resource.setrlimit(resource.RLIMIT_NOFILE, (top, hard))
    held = []
    try:
        with contextlib.suppress(OSError):
            while True:
                held.append(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
        for _ in range(left):
            os.close(held.pop())
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in held:
            os.close(descriptor)


@contextlib.contextmanager
def threads(left: int) -> Iterator[None]:
    """Only so many more may be started."""
    start = threading.Thread.start

    def counted(thread: threading.Thread) -> None:
        nonlocal left
        if left == 0:
            raise RuntimeError("can't start new thread")
        left -= 1
        start(thread)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", counted)
        yield


@contextlib.contextmanager
def processes(left: int) -> Iterator[None]:
    """Only so many more may be started."""
    execute = subprocess.Popen._execute_child  # type: ignore[attr-defined]

    def counted(child: Any, *given: Any) -> None:
        nonlocal left
        if left == 0:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        left -= 1
        execute(child, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess.Popen, "_execute_child", counted)
        yield


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = engine_at(tmp_path / "state")
    do(engine, workspace.create_workspace, environment="debian:12", name="w", **SMALL)
    do(engine, snapshot.create_snapshot, workspace_id="w", snapshot_name="s")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_text("pushed\n")
    yield engine
    do(engine, workspace.delete_workspace, workspace_id="w")
    assert engine.fleet.rows() == []
    assert list(processes_of(engine.settings.state_dir)) == []
    engine.close()


def do(engine: Engine, operation: Any, **params: Any) -> dict[str, Any]:
    answer: dict[str, Any] = operation.answer(CallRecorder(engine).call, params)
    return answer


def operations(engine: Engine, tmp_path: Path, number: int) -> dict[str, Callable[[], object]]:
    def command(**more: Any) -> Callable[[], object]:
        return lambda: do(engine, workspace_exec.exec_workspace, workspace_id="w", command="echo said", **more)

    new = {"environment": "debian:12", "name": "other", **SMALL}
    web = {"service_name": "web", "command": ["sleep", "300"], "published_ports": ["8000"]}
    text, tree, out = "x" * 300_000, str(tmp_path / "tree"), str(tmp_path / f"out{number}")
    return {
        "create": lambda: do(engine, workspace.create_workspace, **new),
        "exec": command(),
        "exec that goes on": command(wait_seconds=20),
        "write": lambda: do(engine, files.write_workspace_file, workspace_id="w", path="new", text=text),
        "push": lambda: do(engine, sync.push_workspace_sync, workspace_id="w", source_path=tree, dest="in"),
        "export": lambda: do(engine, export.export_workspace, workspace_id="w", path=".", output=out),
        "reset": lambda: do(engine, snapshot.reset_workspace, workspace_id="w", snapshot="s"),
        "service": lambda: do(engine, service.start_service, workspace_id="w", **web),
        "shell": lambda: do(engine, shell.open_shell, workspace_id="w"),
    }


def census(engine: Engine) -> tuple[int, int, int]:
    return (
        len(os.listdir("/proc/self/fd")),
        threading.active_count(),
        len(list(processes_of(engine.settings.state_dir))),
    )


def remove(engine: Engine, name: str) -> None:
    """What the operation may have made."""
    if name in LIVING:
        # Begins anew with whoever watches the machine, too.
        do(engine, workspace.stop_workspace, workspace_id="w")
        do(engine, workspace.start_workspace, workspace_id="w")
    for row in engine.registry.rows():
        if row.name == "other":
            engine.lifecycle._remove(row.workspace_id, "the test is done with it")
    engine.lifecycle.recover()


def assert_usable(engine: Engine) -> None:
    assert do(engine, workspace.status_workspace, workspace_id="w")["state"] == "started"
    assert do(engine, workspace_exec.exec_workspace, workspace_id="w", command="echo here")["stdout"] == "here\n"
    entries = do(engine, workspace_exec.logs_workspace, workspace_id="w", limit=100)["entries"]
    assert [entry for entry in entries if entry["state"] == "running"] == []


@pytest.mark.parametrize("lack", [descriptors, threads, processes])
@pytest.mark.parametrize("name", ["create", "exec", "exec that goes on", "write", "push", "export", "reset", *LIVING])
def test_with_only_so_many_left(engine: Engine, tmp_path: Path, lack: Any, name: str) -> None:
    # Once with plenty, so that what is made once is there.
    operations(engine, tmp_path, MOST)[name]()
    remove(engine, name)
    assert_usable(engine)
    codes = []
    before = census(engine)
    for left in range(MOST):
        with lack(left):
            try:
                operations(engine, tmp_path, left)[name]()
                done = True
            except PyroError as error:
                codes.append(error.code)
                done = False
        assert done or not (tmp_path / f"out{left}").exists()
        remove(engine, name)
        assert_usable(engine)
        deadline = time.monotonic() + SETTLE_SECONDS
        while any(now > then for now, then in zip(census(engine), before, strict=True)):
            assert time.monotonic() < deadline, (left, before, census(engine))
            time.sleep(0.01)
        if done:
            break
    assert done, "it never had enough"
    assert set(codes) <= {"capacity", "machine_failed"}
    assert codes or name not in NEEDED_BY[lack.__name__]
