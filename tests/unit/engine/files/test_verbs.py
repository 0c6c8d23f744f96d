"""The content verbs by a workspace's name: what they refuse, and what they leave for the summary."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fleetlab import CallRecorder, engine_at

from pyro_mcp.api import diff, export, patch, sync
from pyro_mcp.api import file as files
from pyro_mcp.engine.engine import Engine
from pyro_mcp.errors import Conflict, NotFound
from pyro_mcp.model.size import MachineSize
from pyro_mcp.operations.operation import Operation


class Lab:
    """One workspace called `w` on this host."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.call = CallRecorder(engine).call
        self.workspace = engine.lifecycle.create(
            self.call,
            environment="debian:12",
            seed=None,
            name="w",
            labels=None,
            network={},
            size=MachineSize(1, 128, 512),
            ttl_seconds=600,
            allow_host_compat=True,
        )

    def do(self, operation: Operation[Any, Any], **params: Any) -> dict[str, Any]:
        return operation.answer(self.call, {"workspace_id": "w", **params})


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    engine = engine_at(tmp_path / "state")
    lab = Lab(engine)
    yield lab
    engine.lifecycle.delete(lab.workspace.workspace_id)
    engine.close()


def test_a_life_of_files_is_noted_for_the_summary(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "lib.py").write_text("value = 1\n")
    lab.do(sync.push_workspace_sync, source_path=str(tmp_path / "source"), dest="src")
    lab.do(files.write_workspace_file, path="src/app.py", text="import lib\n")
    edit = "--- a/src/lib.py\n+++ b/src/lib.py\n@@ -1 +1 @@\n-value = 1\n+value = 2\n"
    lab.do(patch.apply_workspace_patch, patch=edit)
    assert lab.do(files.read_workspace_file, path="src/lib.py")["content"] == "value = 2\n"
    assert [one["path"] for one in lab.do(files.list_workspace_files, pattern="*.py")["entries"]] == [
        "/workspace/src/app.py",
        "/workspace/src/lib.py",
    ]
    assert lab.do(files.search_workspace_files, pattern="^value")["matches"][0]["line"] == 1
    changes = lab.do(diff.diff_workspace)
    assert changes["summary"]["added"] == 2
    assert changes["patch"].count("new file mode") == 2
    lab.do(export.export_workspace, path="src", output=str(tmp_path / "out"))
    assert (tmp_path / "out" / "app.py").read_text() == "import lib\n"
    events = lab.engine.registry.events.list(lab.workspace.workspace_id)
    assert [one.kind for one in events] == ["sync_push", "file_write", "patch_apply", "export"]


def test_a_workspace_that_is_not_there_or_stopped_is_told(lab: Lab) -> None:
    with pytest.raises(NotFound, match="'nope'"):
        lab.do(files.list_workspace_files, workspace_id="nope")
    lab.engine.lifecycle.stop("w")
    for operation, params in (
        (files.list_workspace_files, {}),
        (files.read_workspace_file, {"path": "a"}),
        (files.write_workspace_file, {"path": "a", "text": "x"}),
        (diff.diff_workspace, {}),
    ):
        with pytest.raises(Conflict, match="stopped"):
            lab.do(operation, **params)
