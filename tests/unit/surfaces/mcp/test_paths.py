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


@pytest.mark.parametrize(
    "place",
    [
        *(".git", ".git/hooks/pre-commit", ".GIT/hooks/x", "sub/.git/new", ".git /hooks/x", "link/hooks/pre-commit"),
        *(".envrc", "sub/.envrc", ".vscode", ".vscode/tasks.json", ".husky/pre-commit", "x.code-workspace", "a.pth"),
        *("bare/hooks/post-update", "bare/config", "alias"),
    ],
)
@pytest.mark.parametrize("name", ["workspace_export", "workspace_disk_export"])
def test_nothing_is_put_where_a_program_of_the_host_would_run_it(tmp_path: Path, name: str, place: str) -> None:
    (tmp_path / ".git" / "hooks").mkdir(parents=True)
    (tmp_path / "link").symlink_to(".git")
    (tmp_path / "alias").symlink_to(".git/hooks/post-commit")
    (tmp_path / "bare" / "objects").mkdir(parents=True)
    (tmp_path / "bare" / "HEAD").write_text("ref: refs/heads/main\n")
    arguments = {"workspace_id": "w", **({"path": "a"} if name == "workspace_export" else {})}
    with pytest.raises(PermissionDenied, match="may run by itself") as caught:
        tool(name, tmp_path).params({**arguments, "output": str(tmp_path / place)})
    assert "outside of .git" in str(caught.value.hint)


def test_what_only_resembles_such_a_place_is_written(tmp_path: Path) -> None:
    for place in (".gitignore", "git/hooks/x", "out/envrc", ".github/ci.yml", "hooks/pre-commit"):
        arguments = {"workspace_id": "w", "path": "a", "output": str(tmp_path / place)}
        assert tool("workspace_export", tmp_path).params(arguments)["output"] == str(tmp_path / place)


def test_a_project_may_be_read_with_its_git_directory(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    arguments = {"workspace_id": "w", "source_path": str(tmp_path / ".git")}
    assert tool("workspace_sync_push", tmp_path).params(arguments)["source_path"] == str(tmp_path / ".git")


def test_a_root_that_the_person_named_is_theirs(tmp_path: Path) -> None:
    inside = tmp_path / ".git" / "pyro"
    arguments = {"workspace_id": "w", "path": "a", "output": str(inside / "a.txt")}
    assert tool("workspace_export", tmp_path, inside).params(arguments)["output"] == str(inside / "a.txt")


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
