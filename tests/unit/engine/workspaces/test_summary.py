"""The summary: failures first, everything counted, short whatever happened."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fleetlab import CallRecorder, engine_at
from rich.console import Console

from pyro_mcp.api import exec as workspace_exec
from pyro_mcp.api import export, patch, shell, snapshot, summary, sync, workspace
from pyro_mcp.api import file as files
from pyro_mcp.operations.operation import Operation
from pyro_mcp.surfaces.cli.render.summary import draw_summary


class Lab:
    def __init__(self, tmp_path: Path) -> None:
        self.engine = engine_at(tmp_path / "state")
        self.ask(workspace.create_workspace, environment="debian:12", name="w", allow_host_compat=True)

    def ask(self, verb: Operation[Any, Any], **params: Any) -> dict[str, Any]:
        return verb.answer(CallRecorder(self.engine).call, params)

    def run(self, command: str, **params: Any) -> None:
        self.ask(workspace_exec.exec_workspace, workspace_id="w", command=command, **params)

    def page(self) -> tuple[dict[str, Any], str]:
        answer = self.ask(summary.summarize_workspace, workspace_id="w")
        console = Console(width=200, record=True, file=io.StringIO())
        draw_summary(console, summary.summarize_workspace.result(answer))
        return answer, console.export_text()


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path)
    yield made
    made.engine.lifecycle.delete("w")
    made.engine.close()


def test_nothing_has_happened_yet(lab: Lab) -> None:
    answer, text = lab.page()
    assert answer["commands"]["total"] == 0
    assert answer["changes"]["totals"]["total"] == 0
    assert "commands   none" in text
    assert "changes    none" in text


def test_it_tells_what_happened_with_failures_first(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("one\n")
    lab.ask(sync.push_workspace_sync, workspace_id="w", source_path=str(tmp_path / "in"), dest="src")
    lab.run("echo building; echo oh no >&2; exit 3")
    lab.run("true")
    lab.run("sleep 30", timeout_seconds=1)
    lab.run("sleep 30", wait_seconds=0)
    lab.ask(files.write_workspace_file, workspace_id="w", path="b.txt", text="two\n")
    change = "--- a/b.txt\n+++ b/b.txt\n@@ -1 +1 @@\n-two\n+three\n"
    lab.ask(patch.apply_workspace_patch, workspace_id="w", patch=change)
    lab.ask(snapshot.create_snapshot, workspace_id="w", snapshot_name="done")
    lab.ask(export.export_workspace, workspace_id="w", path="b.txt", output=str(tmp_path / "out.txt"))
    answer, text = lab.page()
    commands = answer["commands"]
    assert {name: commands[name] for name in ("total", "succeeded", "failed", "ended", "running")} == {
        "total": 4,
        "succeeded": 1,
        "failed": 2,
        "ended": 0,
        "running": 1,
    }
    assert [(one["sequence"], one["exit_code"], one["output_tail"]) for one in commands["failures"]] == [
        (3, 124, ""),
        (1, 3, "oh no"),
    ]
    assert [one["sequence"] for one in commands["recent"]] == [4, 3, 2, 1]
    assert answer["changes"]["totals"]["added"] >= 2
    assert answer["changes"]["added_lines"] == 2
    assert answer["file_edits"] == {"count": 1, "paths": ["/workspace/b.txt"]}
    assert answer["patches"]["count"] == 1
    assert answer["syncs"]["entries"][0]["host_path"] == str(tmp_path / "in")
    assert answer["exports"]["entries"][0]["host_path"] == str(tmp_path / "out.txt")
    assert [one["snapshot_name"] for one in answer["snapshots"]] == ["done"]
    lines = text.splitlines()
    assert lines[1] == "commands   2 failed, 1 succeeded, 1 running"
    assert lines[2].startswith("  FAILED   [3] sleep 30  (timed out")
    assert "           | oh no" in lines


def test_it_tells_what_still_runs(lab: Lab) -> None:
    lab.run("sleep 30", wait_seconds=0)
    opened = [lab.ask(shell.open_shell, workspace_id="w") for _ in range(3)]
    lab.ask(shell.close_shell, workspace_id="w", shell_id=opened[1]["shell_id"])
    answer, text = lab.page()
    assert answer["shells"]["opened"] == 3
    assert [one["shell_id"] for one in answer["shells"]["now"]] == [opened[0]["shell_id"], opened[2]["shell_id"]]
    assert "shells     3 opened, 2 running" in text
    assert opened[2]["shell_id"] in text
    assert "still running: 1 command, 2 shells" in text
    lab.ask(workspace.stop_workspace, workspace_id="w")
    answer, text = lab.page()
    assert answer["shells"] == {"now": [], "opened": 3}
    assert "shells     3 opened, 0 running" in text
    lab.ask(snapshot.reset_workspace, workspace_id="w")
    assert lab.page()[0]["shells"] == {"now": [], "opened": 0}


def test_it_begins_anew_with_a_reset(lab: Lab) -> None:
    lab.run("false")
    lab.ask(files.write_workspace_file, workspace_id="w", path="b.txt", text="two\n")
    lab.ask(snapshot.reset_workspace, workspace_id="w")
    answer, text = lab.page()
    assert answer["commands"]["total"] == answer["file_edits"]["count"] == answer["changes"]["totals"]["total"] == 0
    assert answer["reset_count"] == 1
    assert "reset" in text.splitlines()[0]


def test_a_stopped_workspace_is_not_started_for_it(lab: Lab) -> None:
    lab.run("false")
    lab.ask(workspace.stop_workspace, workspace_id="w")
    answer, text = lab.page()
    assert answer["state"] == "stopped"
    assert answer["changes"] is None
    assert answer["commands"]["failed"] == 1
    assert "unknown: the workspace is not running" in text


def test_it_stays_short(lab: Lab) -> None:
    for number in range(60):
        lab.run(f"seq 1 300; echo {'x' * 300} {number} >&2; exit 1")
        lab.ask(files.write_workspace_file, workspace_id="w", path=f"{number}.txt", text="x\n")
    answer, text = lab.page()
    assert answer["commands"]["failed"] == answer["changes"]["totals"]["added"] == 60
    assert len(msgspec.json.encode(answer)) < 24_000
    assert len(text.splitlines()) < 80
