"""What mmdebstrap says becomes progress, versions and errors that tell what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyro_mcp.environments import bootstrap as module
from pyro_mcp.environments.bootstrap import archive_versions, bootstrap, confined, installed_versions, remove_tree
from pyro_mcp.environments.namespaces import obstacle
from pyro_mcp.errors import DiskFull, MissingDependency, PermissionDenied
from pyro_mcp.system import process
from pyro_mcp.system.process import CommandFailed


def test_steps_become_fractions_in_order(tmp_path: Path) -> None:
    said: list[tuple[str, float | None]] = []
    script = "for s in 'running apt-get update...' 'noise' 'extracting archives...'; do echo \"I: $s\" >&2; done"
    confined(["sh", "-c", script], progress=lambda message, fraction: said.append((message, fraction)))
    assert said == [("Reading the package lists", 0.05), ("Unpacking the base system", 0.35)]
    assert [step[2] for step in module._STEPS] == sorted(step[2] for step in module._STEPS)


def test_the_cause_is_apts_own_words() -> None:
    with pytest.raises(CommandFailed, match="Unable to locate package nosuch") as caught:
        confined(["sh", "-c", "echo 'E: Unable to locate package nosuch' >&2; echo noise >&2; exit 25"])
    assert "apt-get update" in str(caught.value.hint)


def test_a_full_disk_is_told_as_such() -> None:
    with pytest.raises(DiskFull):
        confined(["sh", "-c", "echo 'dpkg: error: write failed (No space left on device)' >&2; exit 1"])


def test_a_user_without_namespaces_is_told_what_to_install() -> None:
    with pytest.raises(PermissionDenied) as caught:
        confined(["sh", "-c", "echo 'unshare: unshare failed: Operation not permitted' >&2; exit 1"])
    assert (caught.value.message, caught.value.hint) == (f"cannot run sh: {obstacle()[0]}", obstacle()[1])


def test_a_missing_mmdebstrap_names_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(process, "find_program", lambda name: None)
    with pytest.raises(MissingDependency) as caught:
        bootstrap(tmp_path / "root", variant="minbase", include=[], progress=lambda *_: None)
    assert caught.value.hint == "Install it: apt-get install mmdebstrap"


def test_nothing_of_the_environment_leaks_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("API_KEY", "canary")
    monkeypatch.setenv("https_proxy", "http://proxy.test")
    confined(["sh", "-c", f"env > {tmp_path}/env"])
    text = (tmp_path / "env").read_text()
    assert "canary" not in text
    assert "https_proxy=http://proxy.test" in text


def test_versions_come_from_archive_names(tmp_path: Path) -> None:
    archives = tmp_path / "var/cache/apt/archives"
    archives.mkdir(parents=True)
    for name in ("busybox-static_1%3a1.35.0-4_amd64.deb", "libc6_2.36-9_amd64.deb", "lock"):
        (archives / name).touch()
    assert archive_versions(tmp_path) == {"busybox-static": "1:1.35.0-4", "libc6": "2.36-9"}


def test_versions_come_from_the_dpkg_database(tmp_path: Path) -> None:
    (tmp_path / "var/lib/dpkg").mkdir(parents=True)
    (tmp_path / "var/lib/dpkg/status").write_text(
        "Package: git\nStatus: install ok installed\nVersion: 1:2.39.5\nDescription: x\n Version: 9\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n"
    )
    assert installed_versions(tmp_path) == {"git": "1:2.39.5"}


def test_removing_a_tree_follows_no_link(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    doomed = tmp_path / "doomed"
    doomed.mkdir()
    (doomed / "link").symlink_to(precious)
    remove_tree(doomed)
    remove_tree(tmp_path / "never was")
    assert not doomed.exists()
    assert (precious / "file").exists()
