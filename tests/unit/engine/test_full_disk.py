"""A state directory without room, to each degree, and without inodes: a typed refusal, nothing half, a way out."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fleetlab import CallRecorder, engine_at, processes_of

from pyro_mcp.api import export, snapshot, sync, workspace
from pyro_mcp.api import file as files
from pyro_mcp.engine.engine import Engine
from pyro_mcp.errors import DiskFull
from pyro_mcp.store.database import Database
from pyro_mcp.system.reserve import RESERVE_BYTES

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes mounts")

LEVELS = [0, *(int(4096 * 1.35**step) for step in range(19))]
"""How many bytes are left: twenty levels, to almost 1 MiB."""
TREE_BYTES = 600_000


@pytest.fixture
def small(short_tmp: Path) -> Iterator[Path]:
    """A file system of 4 MiB and 400 inodes."""
    mount = short_tmp / "small"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,nr_inodes=400", "tmpfs", str(mount)], check=True)
    yield mount
    subprocess.run(["umount", "--lazy", str(mount)], check=True)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    path = tmp_path / "tree"
    path.mkdir()
    for number in range(6):
        (path / f"f{number}").write_bytes(os.urandom(TREE_BYTES // 6))
    return path


def do(engine: Engine, operation: Any, **params: Any) -> dict[str, Any]:
    answer: dict[str, Any] = operation.answer(CallRecorder(engine).call, params)
    return answer


def create(engine: Engine, name: str, **more: Any) -> dict[str, Any]:
    given = {"environment": "debian:12", "mem_mib": 128, "allow_host_compat": True, **more}
    return do(engine, workspace.create_workspace, name=name, **given)


def fill(mount: Path, left: int) -> None:
    free = shutil.disk_usage(mount).free - left
    if free > 0:
        (mount / "filler").write_bytes(bytes(free))


def use_up_inodes(mount: Path) -> None:
    (mount / "many").mkdir()
    for number in range(1000):
        try:
            (mount / "many" / str(number)).touch()
        except OSError:
            return
    raise AssertionError("there is no end of inodes")


def attempts(engine: Engine, tree: Path) -> dict[str, Callable[[], object]]:
    """What takes space."""
    return {
        "create": lambda: create(engine, "other", seed_path=str(tree)),
        "push": lambda: do(engine, sync.push_workspace_sync, workspace_id="w", source_path=str(tree), dest="in"),
        "write": lambda: do(engine, files.write_workspace_file, workspace_id="w", path="new", text="x" * 300_000),
        "snapshot": lambda: do(engine, snapshot.create_snapshot, workspace_id="w", snapshot_name="s"),
    }


def refused(engine: Engine, tree: Path) -> set[str]:
    """What was refused for want of space; each completely."""
    found, hints = set(), []
    for name, attempt in attempts(engine, tree).items():
        try:
            attempt()
        except DiskFull as error:
            hints.append(error.hint)
            found.add(name)
    assert all(hints)
    return found


def assert_whole(engine: Engine, outside: Path, found: set[str]) -> None:
    """The workspace can be looked at and taken out; what was refused is not there."""
    names = {row.name for row in engine.registry.rows()}
    assert names == ({"w"} if "create" in found else {"w", "other"})
    assert do(engine, workspace.status_workspace, workspace_id="w")["state"] == "started"
    assert do(engine, files.read_workspace_file, workspace_id="w", path="kept")["content"] == "kept\n"
    listed = {one["path"] for one in do(engine, files.list_workspace_files, workspace_id="w")["entries"]}
    assert listed == {"/workspace/kept"} | {
        f"/workspace/{made}" for verb, made in (("push", "in"), ("write", "new")) if verb not in found
    }
    out = outside / "out"
    assert do(engine, export.export_workspace, workspace_id="w", path=".", output=str(out))["entry_count"] >= 1
    assert (out / "kept").read_text() == "kept\n"
    shutil.rmtree(out)
    assert os.listdir(outside) == []
    snapshots = do(engine, snapshot.list_snapshots, workspace_id="w")["count"]
    assert snapshots == (1 if "snapshot" in found else 2)


def assert_deleted(engine: Engine) -> None:
    state = engine.settings.state_dir
    for row in engine.registry.rows():
        assert do(engine, workspace.delete_workspace, workspace_id=row.workspace_id)["deleted"]
    assert engine.registry.rows() == []
    assert engine.fleet.rows() == []
    assert [*state.glob("workspaces/*"), *state.glob("machines/*"), *state.glob("outgoing/*")] == []
    assert list(processes_of(state)) == []


@pytest.mark.parametrize("left", [*LEVELS, "inodes"])
def test_a_full_state_directory(small: Path, tree: Path, tmp_path: Path, left: int | str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    engine = engine_at(small / "state")
    try:
        create(engine, "w")
        do(engine, files.write_workspace_file, workspace_id="w", path="kept", text="kept\n")
        fill(small, left) if isinstance(left, int) else use_up_inodes(small)
        found = refused(engine, tree)
        assert found if left == "inodes" or left == 0 else True
        assert_whole(engine, outside, found)
        assert_deleted(engine)
    finally:
        engine.close()
    for left_over in small.iterdir():
        if left_over.name != "state":
            shutil.rmtree(left_over) if left_over.is_dir() else left_over.unlink()
    engine = engine_at(small / "state")
    assert (small / "state" / "pyro.reserve").stat().st_blocks * 512 >= RESERVE_BYTES
    create(engine, "again")
    assert_deleted(engine)
    engine.close()


def name_on_disk(mount: Path) -> str:
    """The name of the only workspace, as a node finds it that comes after a kill."""
    copy = mount.parent / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    for part in (mount / "state").glob("pyro.db*"):
        shutil.copy(part, copy)
    database = Database(copy / "pyro.db")
    name = str(database.rows("SELECT name FROM workspaces")[0]["name"])
    database.close()
    return name


def test_what_has_happened_is_read_at_once_and_written_once_there_is_room(small: Path) -> None:
    engine = engine_at(small / "state")
    create(engine, "w")
    workspace_id = engine.registry.find("w").workspace_id
    fill(small, 0)
    long = "x" * 200_000
    note = "UPDATE workspaces SET name=:name WHERE workspace_id=:id", {"id": workspace_id, "name": long}
    engine.database.note(note)
    assert engine.registry.find(workspace_id).name == long
    with pytest.raises(DiskFull):
        engine.registry.touch(workspace_id)
    assert name_on_disk(small) == "w"
    (small / "filler").unlink()
    engine.registry.touch(workspace_id)
    assert name_on_disk(small) == long
    do(engine, workspace.delete_workspace, workspace_id=workspace_id)
    engine.close()


def test_a_node_that_leaves_a_full_disk_has_recorded_what_has_happened(small: Path) -> None:
    engine = engine_at(small / "state")
    create(engine, "w")
    made = engine.registry.find("w")
    do(engine, workspace.stop_workspace, workspace_id="w")
    fill(small, 0)
    reason = "r" * 50_000
    change = {"id": made.machine_id, "reason": reason}
    engine.database.note(("UPDATE machines SET reason=:reason WHERE machine_id=:id", change))
    engine.close()
    engine = engine_at(small / "state")
    assert engine.fleet.get(made.machine_id).reason == reason
    assert_deleted(engine)
    engine.close()
