"""No argument of a tool reaches further on this host than the person who started the server meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyro_mcp.errors import PermissionDenied
from pyro_mcp.surfaces import catalog
from pyro_mcp.surfaces.mcp.paths import host_roots
from pyro_mcp.surfaces.mcp.tools import BoundTool


def tool(name: str, *roots: Path) -> BoundTool:
    found = next(one for one in catalog.tools("workspace-full") if one.tool == name)
    return BoundTool(found, "workspace-full", allow_host_compat=False, roots=roots)


@pytest.mark.parametrize(
    ("name", "arguments", "key"),
    [
        ("workspace_create", {"environment": "debian:12"}, "seed_path"),
        ("workspace_sync_push", {"workspace_id": "w"}, "source_path"),
        ("workspace_export", {"workspace_id": "w", "path": "a"}, "output"),
        ("workspace_disk_export", {"workspace_id": "w"}, "output"),
    ],
)
def test_paths_stay_below_the_roots(tmp_path: Path, name: str, arguments: dict[str, str], key: str) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "way-out").symlink_to("/etc")
    bound = tool(name, project)
    assert bound.params({**arguments, key: str(project / "inside")})[key] == str(project / "inside")
    for path in ("/etc/passwd", str(project / ".." / "other"), str(project / "way-out" / "passwd"), str(tmp_path)):
        with pytest.raises(PermissionDenied, match="outside of what this server may touch") as caught:
            bound.params({**arguments, key: path})
        assert "--host-path" in str(caught.value.hint)


def test_secret_files_are_host_paths_too(tmp_path: Path) -> None:
    bound = tool("workspace_create", tmp_path)
    with pytest.raises(PermissionDenied):
        bound.params({"environment": "debian:12", "secret_files": {"KEY": "/root/.ssh/id_rsa"}})


def test_the_root_directory_and_home_do_not_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir("/")
    assert host_roots() == ()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert host_roots() == ()
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    assert host_roots(["/srv"]) == (tmp_path / "project", Path("/srv"))
