"""A node keeps the settings it was started with: who asks for others gets them, or is told why not; never neither."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyro_mcp.errors import Conflict, InvalidArgument, NotFound
from pyro_mcp.node.paths import About, NodePaths, peer
from pyro_mcp.node.spawn import connect_node, ensure_node
from pyro_mcp.settings import Settings
from pyro_mcp.store.database import Database
from pyro_mcp.store.machines import MachineRow, Machines
from pyro_mcp.surfaces.client import Callbacks, Client
from pyro_mcp.system.process import wait_pidfd

OTHERS = {
    "cache_dir": "other-cache",
    "max_machines": 3,
    "memory_limit_mib": 2048,
    "require_isolation": "kvm",
    "idle_seconds": 77,
    "pool_size": 5,
    "ca_file": "/etc/hostname",
}


@pytest.fixture
def paths(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Where the node lives; it ends with the test."""
    given = {"state_dir": tmp_path / "state", "cache_dir": tmp_path / "cache"}
    yield given
    connection = connect_node(Settings.load(**given))
    if connection is not None:
        with connection, contextlib.suppress(ProcessLookupError):
            pidfd = os.pidfd_open(peer(connection)[0])
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)
            assert wait_pidfd(pidfd, 20)
            os.close(pidfd)


def started(settings: Settings) -> int:
    with ensure_node(settings) as connection:
        return peer(connection)[0]


def test_every_setting_that_a_node_keeps_is_tried_here() -> None:
    assert set(OTHERS) | {"state_dir"} == {field.name for field in dataclasses.fields(Settings)} - {"given"}


@pytest.mark.parametrize("name", OTHERS)
def test_a_node_that_owns_nothing_makes_way(paths: dict[str, Any], name: str) -> None:
    first = started(Settings.load(**paths))
    wanted = Settings.load(**{**paths, name: OTHERS[name]})
    assert started(wanted) != first
    about = About.load(NodePaths.of(wanted))
    assert about is not None
    assert about.settings[name] == wanted.values()[name]


@pytest.mark.parametrize("name", OTHERS)
def test_a_node_with_machines_stays_and_the_wish_is_refused(paths: dict[str, Any], name: str) -> None:
    settings = Settings.load(**paths)
    with_a_machine(settings)
    first = started(settings)
    with pytest.raises(Conflict, match="cannot use the node") as caught:
        ensure_node(Settings.load(**{**paths, name: OTHERS[name]}))
    variable = f"PYRO_{name.upper()}"
    there = settings.values()[name]
    assert f"started {f'with {variable}={there}' if there else f'without {variable}'}, and " in caught.value.message
    assert "None" not in caught.value.message
    assert caught.value.hint is not None
    assert "PYRO_STATE_DIR" in caught.value.hint
    assert started(settings) == first


def test_defaults_are_nobodys_wish(paths: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    first = started(Settings.load(**paths, max_machines=3, memory_limit_mib=2048))
    assert started(Settings.load(**paths)) == first
    monkeypatch.setenv("PYRO_MAX_MACHINES", "4")
    assert started(Settings.load(**paths)) != first


def test_another_name_of_the_same_directory_is_the_same(paths: dict[str, Any], tmp_path: Path) -> None:
    paths["cache_dir"].mkdir()
    (tmp_path / "alias").symlink_to(paths["cache_dir"])
    first = started(Settings.load(**paths))
    assert started(Settings.load(**{**paths, "cache_dir": tmp_path / "alias"})) == first


def with_a_machine(settings: Settings) -> None:
    """The store of a node that owns a machine which waits to be started."""
    settings.state_dir.mkdir(mode=0o700)
    database = Database(settings.state_dir / "pyro.db")
    row = MachineRow(
        machine_id="vm-0123456789ab", environment="debian:12", digest=None, driver="host", isolation="none",
        execution_mode="host_compat", vcpu_count=1, mem_mib=128, scratch_mib=64, state="stopped", one_shot=False,
        ttl_seconds=600, created_at=0.0, expires_at=4e9, boot_id="", deadline_ns=0, workspace_id=None, network={},
    )  # fmt: skip
    Machines(database).insert(row)
    (settings.state_dir / "machines" / row.machine_id).mkdir(parents=True)
    database.close()


def test_certificates_named_for_all_programs_matter_where_they_are_handed_on(paths: dict[str, Any]) -> None:
    first = started(Settings.load({}, **paths))
    client = Client(Settings.load({"SSL_CERT_FILE": "/etc/hostname"}, **paths))
    asked = {"environment": "none:1", "command": ["true"]}
    with pytest.raises(NotFound):
        client.begin("run_in_vm", asked).wait(Callbacks())
    with pytest.raises(Conflict, match="cannot hand on /etc/hostname: the node was started with ca_file /etc/ssl"):
        client.begin("run_in_vm", {**asked, "host_ca": True})
    client.close()
    assert started(Settings.load({}, **paths)) == first
    indifferent = Client(Settings.load({}, **paths))
    with pytest.raises(InvalidArgument, match="there is no network"):
        indifferent.begin("run_in_vm", {**asked, "host_ca": True}).wait(Callbacks())
    indifferent.close()
