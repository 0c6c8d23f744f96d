"""A guest whose scratch disk is full, or out of inodes: typed refusals, and the workspace can be read and taken out."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyro_mcp.api import disk, export, patch, snapshot, sync, workspace
from pyro_mcp.api import exec as workspace_exec
from pyro_mcp.api import file as files
from pyro_mcp.engine.engine import Engine
from pyro_mcp.errors import DiskFull
from pyro_mcp.machines.driver import Image

pytestmark = pytest.mark.guest

FILL = {
    "bytes": "dd if=/dev/zero of=/root/filler bs=64k; sync; dd if=/dev/zero of=/root/rest bs=4k; true",
    "inodes": "mkdir /root/many && cd /root/many && i=0; while : > $i; do i=$((i+1)); done",
}


class Lab:
    """One workspace called `w` on a small disk."""

    def __init__(self, engine: Engine, call: Any) -> None:
        self.engine, self.call = engine, call

    def do(self, operation: Any, **params: Any) -> dict[str, Any]:
        answer: dict[str, Any] = operation.answer(self.call, {"workspace_id": "w", **params})
        return answer

    def sh(self, command: str) -> dict[str, Any]:
        return self.do(workspace_exec.exec_workspace, command=command, timeout_seconds=120)


@pytest.fixture
def lab(tmp_path: Path, environment: Image) -> Iterator[Lab]:
    sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "support"))
    import fleetlab

    engine = fleetlab.guest_engine_at(tmp_path / "state")
    lab = Lab(engine, fleetlab.CallRecorder(engine).call)
    seed = tmp_path / "seed"
    seed.mkdir()
    (seed / "kept").write_text("kept\n")
    given = {"environment": "debian:12", "name": "w", "mem_mib": 256, "scratch_mib": 64, "seed_path": str(seed)}
    workspace.create_workspace.answer(lab.call, given)
    yield lab
    assert lab.do(workspace.delete_workspace)["deleted"]
    assert list(fleetlab.processes_of(tmp_path / "state")) == []
    engine.close()


@pytest.mark.parametrize("what", FILL)
def test_a_full_guest_refuses_and_can_be_left(lab: Lab, tmp_path: Path, what: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(40):
        (source / f"f{number}").write_bytes(b"x" * 100_000)
    lab.do(snapshot.create_snapshot, snapshot_name="before")
    lab.sh("echo mine > /workspace/mine")
    lab.sh(FILL[what])
    edit = "--- a/kept\n+++ b/kept\n@@ -1 +1,2 @@\n kept\n" + "+more\n"
    for operation, params in (
        (sync.push_workspace_sync, {"source_path": str(source), "dest": "in"}),
        (files.write_workspace_file, {"path": "new", "text": "x" * 300_000}),
        (patch.apply_workspace_patch, {"patch": edit}),
    ):
        with pytest.raises(DiskFull) as caught:
            lab.do(operation, **params)
        assert caught.value.hint
    assert lab.do(files.read_workspace_file, path="kept")["content"] == "kept\n"
    listed = [entry["path"] for entry in lab.do(files.list_workspace_files)["entries"]]
    assert listed == ["/workspace/kept", "/workspace/mine"]
    assert lab.sh("cat mine; ls -A | grep pyro; true")["stdout"] == "mine\n"
    assert lab.do(export.export_workspace, path=".", output=str(tmp_path / "out"))["entry_count"] == 2
    assert lab.do(snapshot.create_snapshot, snapshot_name="full")["entry_count"] >= 1
    for _ in range(2):
        lab.do(workspace.stop_workspace)
        lab.do(workspace.start_workspace)
    lab.do(workspace.stop_workspace)
    assert lab.do(disk.read_workspace_disk, path="mine")["content"] == "mine\n"
    lab.do(workspace.start_workspace)
    assert lab.sh("cat mine")["stdout"] == "mine\n"
    lab.do(snapshot.reset_workspace, snapshot="full")
    assert lab.sh("cat kept mine; dd if=/dev/zero of=/root/x bs=1M count=8 2>/dev/null && echo room")["stdout"] == (
        "kept\nmine\nroom\n"
    )
