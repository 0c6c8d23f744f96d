"""What a host starts is the path that lasts longest."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hostlab import where

from pyro_mcp.hosts.contract import Server
from pyro_mcp.hosts.launcher import Launcher, find_launcher, risk_of

OWN = Path(sys.executable).parent / "pyro"


def test_a_link_outside_goes_before_the_environment_it_leads_into(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_launcher(where()).command == str(OWN)
    assert "virtual environment" in str(find_launcher(where()).risk)
    lasting = home / ".local" / "bin" / "pyro"
    lasting.parent.mkdir(parents=True)
    lasting.symlink_to(OWN)
    found = find_launcher(where())
    assert (found.command, found.risk) == (str(lasting), None)


def test_another_pyro_on_path_is_not_ours(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = home / "bin" / "pyro"
    other.parent.mkdir()
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", f"{other.parent}:/usr/bin")
    assert find_launcher(where()).command == str(OWN)


def test_caches_do_not_last(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "emptied" in str(risk_of(home / ".cache" / "uv" / "archive-v0" / "x" / "bin" / "pyro", where()))
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere/cache")
    assert "emptied" in str(risk_of(Path("/somewhere/cache/bin/pyro"), where()))
    assert risk_of(Path("/usr/bin/pyro"), where()) is None


def test_another_path_to_the_same_program_stays_if_it_is_as_good(home: Path) -> None:
    one, two = home / "one", home / "two"
    one.symlink_to(OWN)
    two.symlink_to(OWN)
    launcher = Launcher(where(), str(one), ())
    assert launcher.server((), instead_of=Server(str(two), ())).command == str(two)
    assert launcher.server((), instead_of=Server(str(OWN), ())).command == str(one)
    assert launcher.server((), instead_of=Server("/usr/bin/env", ())).command == str(one)
    assert launcher.server((), instead_of=Server("two", ())).command == str(one)
