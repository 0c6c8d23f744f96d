"""The disk verbs where there is no disk, and the paths they take."""

from __future__ import annotations

from pathlib import Path

import pytest
from fleetlab import CallRecorder, engine_at

from pyro_mcp.api import disk, workspace
from pyro_mcp.engine.workspaces.offline_disk import _parts, _text
from pyro_mcp.errors import InvalidArgument, Unsupported


def test_a_workspace_on_this_host_has_no_disk(tmp_path: Path) -> None:
    engine = engine_at(tmp_path / "state")
    call = CallRecorder(engine).call
    workspace.create_workspace.answer(call, {"environment": "debian:12", "name": "w", "allow_host_compat": True})
    workspace.stop_workspace.answer(call, {"workspace_id": "w"})
    with pytest.raises(Unsupported, match="it runs on this host and has none"):
        disk.list_workspace_disk.answer(call, {"workspace_id": "w"})
    with pytest.raises(Unsupported, match="it runs on this host and has none"):
        disk.export_workspace_disk.answer(call, {"workspace_id": "w", "output": str(tmp_path / "out")})
    assert not (tmp_path / "out").exists()
    engine.lifecycle.delete("w")
    engine.close()


def test_paths_stay_below_the_workspace() -> None:
    assert _parts("/workspace") == _parts(".") == []
    assert _parts("/workspace/a/./b//c") == _parts("a/b/c") == ["a", "b", "c"]
    for path in ("/etc/passwd", "..", "a/../..", "/workspace/..", "/workspaces"):
        with pytest.raises(InvalidArgument):
            _parts(path)


def test_text_is_told_from_bytes() -> None:
    assert _text("é".encode()[:1], True) == ("", False)
    assert _text("é".encode()[:1], False) == ("", True)
    assert _text(b"a\0b", False)[1]
    assert _text(b"ab", True) == ("ab", False)
