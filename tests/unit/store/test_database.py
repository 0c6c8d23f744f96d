"""The store: durable rows, one writer, migrations that are whole or not at all."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from pyro_mcp.errors import PyroError, Unsupported
from pyro_mcp.store import migrate
from pyro_mcp.store.database import Database
from pyro_mcp.store.machines import MachineRow, Machines


def a_row(machine_id: str = "vm-000000000001", **changes: object) -> MachineRow:
    values: dict[str, object] = {
        "machine_id": machine_id,
        "environment": "debian:12",
        "digest": None,
        "driver": "host",
        "isolation": "none",
        "execution_mode": "host_compat",
        "vcpu_count": 1,
        "mem_mib": 128,
        "scratch_mib": 64,
        "state": "creating",
        "one_shot": False,
        "ttl_seconds": 600,
        "created_at": 1.5,
        "expires_at": 601.5,
        "boot_id": "boot",
        "deadline_ns": 7,
    }
    return MachineRow(**{**values, **changes})  # type: ignore[arg-type]


def test_a_row_survives_closing_and_reopening(tmp_path: Path) -> None:
    database = Database(tmp_path / "pyro.db")
    row = a_row(one_shot=True)
    Machines(database).insert(row)
    database.close()
    again = Database(tmp_path / "pyro.db")
    assert Machines(again).list() == [row]
    assert again.check() == "ok"
    again.close()


def test_an_acknowledged_row_survives_a_kill(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        machines = Machines(Database(tmp_path / "pyro.db"))
        machines.insert(a_row())
        os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    database = Database(tmp_path / "pyro.db")
    assert [row.machine_id for row in Machines(database).list()] == ["vm-000000000001"]
    database.close()


def _delete_and_stumble(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute("DELETE FROM machines")
        connection.execute("DELETE FROM no_such")


def test_a_transaction_is_all_or_nothing(tmp_path: Path) -> None:
    database = Database(tmp_path / "pyro.db")
    machines = Machines(database)
    machines.insert(a_row("vm-kept"))
    with pytest.raises(PyroError, match="no such table"):
        _delete_and_stumble(database)
    assert [row.machine_id for row in machines.list()] == ["vm-kept"]
    machines.delete("vm-kept")
    with pytest.raises(PyroError, match="cannot write the store"):
        machines.insert(a_row(state="dreaming"))
    assert machines.list() == []
    machines.insert(a_row())
    with pytest.raises(PyroError, match="UNIQUE"):
        machines.insert(a_row())
    database.close()


def test_death_only_fails_a_machine_that_runs(tmp_path: Path) -> None:
    database = Database(tmp_path / "pyro.db")
    machines = Machines(database)
    machines.insert(a_row("vm-1", state="running"))
    machines.insert(a_row("vm-2", state="deleting"))
    for name in ("vm-1", "vm-2", "vm-3"):
        machines.fail(name, "it died")
    assert {row.machine_id: row.state for row in machines.list()} == {"vm-1": "failed", "vm-2": "deleting"}
    database.close()


def test_the_store_is_private_and_has_one_writer(tmp_path: Path) -> None:
    database = Database(tmp_path / "pyro.db")
    assert (tmp_path / "pyro.db").stat().st_mode & 0o777 == 0o600
    with pytest.raises(PyroError, match="locked"):
        Database(tmp_path / "pyro.db")
    database.close()


def test_a_newer_store_is_refused_without_a_write(tmp_path: Path) -> None:
    path = tmp_path / "pyro.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE future (x)")
    connection.execute(f"PRAGMA user_version={migrate.latest() + 1}")
    connection.commit()
    connection.close()
    before = (path.read_bytes(), path.stat().st_mtime_ns, sorted(os.listdir(tmp_path)))
    with pytest.raises(Unsupported, match="its version is"):
        Database(path)
    assert (path.read_bytes(), path.stat().st_mtime_ns, sorted(os.listdir(tmp_path))) == before


def test_a_damaged_store_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "pyro.db"
    path.write_bytes(b"no database at all, but long enough to look like one" * 100)
    with pytest.raises(PyroError, match="not a database") as caught:
        Database(path)
    assert caught.value.hint is not None


def test_an_upgrade_killed_at_any_statement_leaves_one_version(tmp_path: Path) -> None:
    scripts = tmp_path / "migrations"
    scripts.mkdir()
    (scripts / "0001_a.sql").write_text("CREATE TABLE a (x);\nINSERT INTO a VALUES (1);\n")
    (scripts / "0002_b.sql").write_text(
        "-- a comment; with a semicolon\nCREATE TABLE b (y);\nINSERT INTO b\n  SELECT x FROM a;\nDROP TABLE a;\n"
    )
    steps = 0
    while True:
        steps += 1
        path = tmp_path / f"{steps}.db"
        left = [steps]

        def maybe(version: int, statement: str, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise InterruptedError

        connection = sqlite3.connect(path, isolation_level=None)
        try:
            migrate.upgrade(connection, scripts, before_statement=maybe)
            finished = True
        except InterruptedError:
            finished = False
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        assert tables == {0: set(), 1: {"a"}, 2: {"b"}}[version]
        assert migrate.upgrade(connection, scripts) == 2
        assert connection.execute("SELECT y FROM b").fetchall() == [(1,)]
        connection.close()
        if finished:
            break
    assert steps == 8
