"""/workspace undone by the guest's own root, over SDK, CLI and MCP: a typed error, and a way back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.guest


def test_what_undoes_the_workspace_is_told_and_a_reset_recovers(surface: Any, tmp_path: Path) -> None:
    (tmp_path / "seed").mkdir()
    (tmp_path / "seed/file").write_text("seeded")
    made = surface.do("create_workspace", environment="debian:12", mem_mib=512, seed_path=str(tmp_path / "seed"))
    name = made["workspace_id"]
    assert "O_TMPFILE" in made["metadata"]["file_system"]

    def run(line: str) -> Any:
        return surface.do("exec_workspace", workspace_id=name, command=["sh", "-ec", line])["stdout"]

    try:
        run("mount -t tmpfs none /workspace")
        for verb, words, params in (
            ("exec_workspace", "run the command", {"command": ["pwd"]}),
            ("list_workspace_files", "list files", {}),
            ("read_workspace_file", "read the file", {"path": "file"}),
            ("diff_workspace", "compare /workspace with the baseline", {}),
            ("export_workspace", "export from /workspace", {"path": ".", "output": str(tmp_path / "out")}),
            ("push_workspace_sync", "import into /workspace", {"source_path": str(tmp_path / "seed")}),
            ("create_snapshot", "save /workspace", {"snapshot_name": "one"}),
            ("open_shell", "open the shell", {}),
            ("start_service", "start the service", {"service_name": "web", "command": ["sleep", "9"]}),
        ):
            said = f"cannot {words}: /workspace was unmounted, moved or covered"
            with pytest.raises(Exception, match=said) as caught:
                surface.do(verb, workspace_id=name, **params)
            assert caught.value.code == "conflict", verb  # type: ignore[attr-defined]
            assert "<<" not in str(caught.value)
        refused = surface.do("logs_workspace", workspace_id=name)["entries"][-1]
        assert (refused["command"], refused["state"], refused["exit_code"]) == ("pwd", "not_started", None)
        counts = surface.do("summarize_workspace", workspace_id=name)["commands"]
        assert (counts["failed"], counts["not_started"], counts["total"]) == (0, 1, 2)
        surface.do("reset_workspace", workspace_id=name)
        assert run("cat file") == "seeded"
        run("echo kept > new; umount -l /workspace; rmdir /workspace; ln -s /tmp /workspace")
        surface.do("stop_workspace", workspace_id=name)
        surface.do("start_workspace", workspace_id=name)
        assert run("cat file new; readlink /workspace.aside") == "seededkept\n/tmp\n"
    finally:
        surface.do("delete_workspace", workspace_id=name)
