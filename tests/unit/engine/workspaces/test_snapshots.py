"""Seeds, snapshots and resets over a plain directory: what comes back, what is refused, what a failure leaves."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fleetlab import CallRecorder, engine_at

from pyro_mcp.api import workspace
from pyro_mcp.engine.engine import Engine
from pyro_mcp.errors import Cancelled, Conflict, DiskFull, InvalidArgument, NotFound, PyroError
from pyro_mcp.machines.host.driver import HostDriver
from pyro_mcp.model.workspace import Workspace
from pyro_mcp.node.adopt import reconcile

REF = "w"


def create(engine: Engine, **given: Any) -> Workspace:
    return workspace.create_workspace.function(
        CallRecorder(engine).call, environment="debian:12", name=REF, mem_mib=128, allow_host_compat=True, **given
    )


def run(engine: Engine, command: str) -> str:
    done = engine.commands.exec(
        CallRecorder(engine).call, REF, command=command, timeout_seconds=20, wait_seconds=None, stdin=None
    )
    return done.stdout + done.stderr


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small tree with all that travels."""
    root = tmp_path / "tree"
    (root / "sub" / "empty").mkdir(parents=True)
    (root / "file").write_text("one\n")
    (root / "run.sh").write_text("#!/bin/sh\necho ran\n")
    (root / "run.sh").chmod(0o755)
    (root / "link").symlink_to("file")
    os.link(root / "file", root / "sub" / "twin")
    return root


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = engine_at(tmp_path / "state")
    yield engine
    for row in engine.registry.rows():
        engine.lifecycle.delete(row.workspace_id)
    engine.close()


def reset(engine: Engine, name: str = "baseline", recorder: CallRecorder | None = None) -> Any:
    return engine.snapshots.reset((recorder or CallRecorder(engine)).call, REF, name)


def test_a_directory_is_there_before_create_returns(engine: Engine, tree: Path) -> None:
    made = create(engine, seed_path=str(tree))
    seed = made.workspace_seed
    assert (seed.mode, seed.seed_path, seed.entry_count, seed.skipped_count) == ("directory", str(tree), 6, 0)
    assert run(engine, "./run.sh; cat link; stat -c %h file; ls -d sub/empty") == "ran\none\n2\nsub/empty\n"


def test_an_archive_is_a_seed_too(engine: Engine, tree: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "tree.tar.gz", "w:gz") as archive:
        archive.add(tree, ".")
    made = create(engine, seed_path=str(tmp_path / "tree.tar.gz"))
    assert made.workspace_seed.mode == "archive"
    assert run(engine, "./run.sh") == "ran\n"


@pytest.mark.parametrize(("path", "error"), [("/no/such/place", NotFound), ("relative", InvalidArgument)])
def test_a_bad_seed_leaves_nothing(engine: Engine, path: str, error: type[PyroError]) -> None:
    with pytest.raises(error):
        create(engine, seed_path=path)
    assert engine.registry.rows() == []
    assert engine.fleet.rows() == []
    assert list((engine.settings.state_dir / "workspaces").glob("*")) == []


def test_reset_goes_back_to_the_baseline_and_forgets(engine: Engine, tree: Path) -> None:
    create(engine, seed_path=str(tree))
    (tree / "file").write_text("changed on the host\n")
    run(engine, "echo two > file; rm run.sh; echo new > new")
    done = reset(engine)
    assert (done.reset_count, done.command_count, done.state) == (1, 0, "started")
    assert (done.workspace_reset.snapshot_name, done.workspace_reset.kind) == ("baseline", "baseline")
    assert run(engine, "cat file; ./run.sh; ls") == "one\nran\nfile\nlink\nrun.sh\nsub\n"
    assert engine.lifecycle.status(REF).command_count == 1
    assert len(engine.fleet.rows()) == 1
    assert len(list((engine.settings.state_dir / "machines").glob("*"))) == 1


def test_snapshots_come_back_and_can_go(engine: Engine) -> None:
    create(engine)
    run(engine, "mkdir d; echo first > d/f; ln -s d l")
    made = engine.snapshots.create(CallRecorder(engine).call, REF, "one")
    assert (made.kind, made.deletable, made.entry_count, made.bytes_written) == ("named", True, 3, 6)
    with pytest.raises(Conflict, match="one of that name"):
        engine.snapshots.create(CallRecorder(engine).call, REF, "one")
    run(engine, "rm -r d l; echo other > g")
    engine.snapshots.create(CallRecorder(engine).call, REF, "two")
    assert reset(engine, "one").workspace_reset.bytes_written == 6
    assert run(engine, "cat l/f; ls") == "first\nd\nl\n"
    assert [one.snapshot_name for one in engine.snapshots.listing(REF)] == ["baseline", "one", "two"]
    reset(engine, "two")
    assert run(engine, "ls") == "g\n"
    assert engine.snapshots.delete(REF, "one").deleted
    for name in ("one", "never"):
        with pytest.raises(NotFound, match=name):
            reset(engine, name)
        with pytest.raises(NotFound):
            engine.snapshots.delete(REF, name)
    for verb in (
        lambda: engine.snapshots.delete(REF, "baseline"),
        lambda: engine.snapshots.create(CallRecorder(engine).call, REF, "baseline"),
    ):
        with pytest.raises(InvalidArgument, match="baseline"):
            verb()


def test_a_snapshot_survives_node_and_stop(tmp_path: Path) -> None:
    engine = engine_at(tmp_path / "state")
    create(engine)
    run(engine, "echo kept > f")
    engine.snapshots.create(CallRecorder(engine).call, REF, "s")
    engine.lifecycle.stop(REF)
    engine.close()
    again = engine_at(tmp_path / "state")
    reconcile(again)
    assert reset(again, "s").state == "started"
    assert run(again, "cat f") == "kept\n"
    again.lifecycle.delete(REF)
    again.close()


def test_a_damaged_snapshot_is_refused_and_the_workspace_goes_on(engine: Engine) -> None:
    create(engine)
    run(engine, "echo kept > f")
    engine.snapshots.create(CallRecorder(engine).call, REF, "s")
    (file,) = (engine.settings.state_dir / "workspaces").rglob("*.entries")
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(PyroError, match="damaged"):
        reset(engine, "s")
    assert run(engine, "cat f") == "kept\n"


def test_a_failed_or_cancelled_reset_leaves_the_old_workspace(tmp_path: Path) -> None:
    class Failing(HostDriver):
        broken = False

        def launch(self, spec: Any, progress: Any) -> Any:
            if self.broken:
                raise PyroError("cannot boot: it is broken")
            return super().launch(spec, progress)

    driver = Failing()
    engine = engine_at(tmp_path / "state", driver=driver, max_machines=1, memory_limit_mib=128)
    create(engine)
    run(engine, "echo kept > f")
    driver.broken = True
    with pytest.raises(PyroError, match="it is broken"):
        reset(engine)
    driver.broken = False
    recorder = CallRecorder(engine)
    recorder.call.report = lambda message, _: recorder.call.cancel() if "restoring" in message else None
    with pytest.raises(Cancelled):
        reset(engine, recorder=recorder)
    status = engine.lifecycle.status(REF)
    assert (status.state, status.reset_count, status.command_count) == ("started", 0, 1)
    assert len(engine.fleet.rows()) == 1
    assert run(engine, "cat f") == "kept\n"
    assert reset(engine).reset_count == 1
    engine.lifecycle.delete(REF)
    engine.close()


def test_a_snapshot_that_cannot_be_recorded_leaves_no_file(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(row: Any) -> bool:
        raise DiskFull("cannot write the store: the disk is full")

    made = create(engine)
    monkeypatch.setattr(engine.snapshots._table, "insert", refuse)
    with pytest.raises(DiskFull):
        engine.snapshots.create(CallRecorder(engine).call, REF, "late")
    assert list((engine.registry.directory(made.workspace_id) / "snapshots").iterdir()) == []


def test_what_a_snapshot_does_not_hold_is_named(engine: Engine) -> None:
    create(engine)
    run(engine, "echo kept > file; mkfifo pipe; mkdir sub; mkfifo sub/other")
    made = engine.snapshots.create(CallRecorder(engine).call, REF, "s")
    assert [(one.path, one.reason) for one in made.skipped] == [("pipe", "a FIFO"), ("sub/other", "a FIFO")]
    assert (made.skipped_count, made.entry_count) == (2, 2)
    assert not hasattr(engine.snapshots.listing(REF).snapshots[1], "skipped")
