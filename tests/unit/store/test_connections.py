"""The connections table: bounded, counted beyond, gone with its machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyro_mcp.model.network import Connection
from pyro_mcp.store.connections import Connections
from pyro_mcp.store.database import Database
from pyro_mcp.store.machines import MachineRow, Machines


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path / "pyro.db")
    Machines(opened).insert(
        MachineRow(
            "vm-1", "debian:12", None, "qemu", "emulated", "guest", 1, 128, 64, "running", False, 60, 1, 2, "b", 3
        )
    )
    yield opened
    opened.close()


def entry(number: int, verdict: Any = "allowed", **values: Any) -> Connection:
    given = {"name": "a.test", "address": "8.8.8.8", "port": 443, **values}
    return Connection("vm-1", float(number), verdict, **given)


def test_a_connection_that_ends_later_is_counted_once(database: Database) -> None:
    table = Connections(database)
    one = entry(1)
    table.write([one], [], [], {})
    assert table.totals("vm-1")["bytes_in"] == 0
    one.bytes_in, one.bytes_out, one.duration_ms = 10, 3, 5
    table.write([], [one], [], {})
    table.write([], [one], [], {})
    totals = table.totals("vm-1")
    assert (totals["allowed"], totals["bytes_in"], totals["bytes_out"]) == (1, 10, 3)
    (row,) = table.latest("vm-1", "allowed", 5)
    assert (row["bytes_in"], row["duration_ms"]) == (10, 5)


def test_equal_refusals_are_counted_in_one_row(database: Database) -> None:
    table = Connections(database)
    for number in range(3):
        table.write([], [], [entry(number, "refused", reason="no", hint="--x", count=2)], {})
    table.write([], [], [entry(9, "refused", reason="other")], {})
    rows = table.latest("vm-1", "refused", 5)
    assert [(row["reason"], row["count"], row["recorded_at"]) for row in rows] == [("other", 1, 9.0), ("no", 6, 2.0)]
    assert table.totals("vm-1")["refused"] == 7


def test_only_the_latest_are_kept_and_all_are_counted(database: Database) -> None:
    table = Connections(database, kept=10)
    table.write(
        [entry(number, port=number + 1, bytes_in=1) for number in range(25)], [], [], {"vm-1": {"forgotten": 4}}
    )
    totals = table.totals("vm-1")
    assert (totals["allowed"], totals["bytes_in"], totals["forgotten"]) == (25, 25, 19)
    assert [row["port"] for row in table.latest("vm-1", "allowed", 100)] == list(range(25, 15, -1))


def test_no_flood_of_refusals_washes_away_where_it_has_been(database: Database) -> None:
    table = Connections(database, kept=10)
    table.write([entry(0, port=number + 1) for number in range(5)], [], [], {})
    for start in (1, 101):
        refusals = [entry(number, "refused", port=number) for number in range(start, start + 100)]
        table.write([], [], refusals, {"vm-1": {"refused": 7, "forgotten": 7}})
    assert len(table.latest("vm-1", "allowed", 100)) == 5
    assert len(table.latest("vm-1", "refused", 100)) == 10
    totals = table.totals("vm-1")
    assert (totals["allowed"], totals["refused"], totals["forgotten"]) == (5, 214, 204)


def test_destinations_are_summed_by_name(database: Database) -> None:
    table = Connections(database)
    table.write(
        [
            entry(1, bytes_in=5),
            entry(2, address="8.8.4.4", bytes_in=6),
            entry(3, name="", address="1.1.1.1", bytes_out=20),
            entry(4, name="", address="9.9.9.9"),
        ],
        [],
        [],
        {},
    )
    found = [
        (row["name"], row["address"], row["connections"], row["bytes_in"]) for row in table.destinations("vm-1", 9)
    ]
    assert found == [("", "1.1.1.1", 1, 0), ("a.test", "8.8.8.8", 2, 11), ("", "9.9.9.9", 1, 0)]


def test_it_ends_with_its_machine(database: Database) -> None:
    table = Connections(database)
    one = entry(1)
    table.write([one], [], [entry(2, "refused")], {})
    Machines(database).delete("vm-1")
    one.bytes_in = 9
    table.write([entry(3)], [one], [entry(4, "refused")], {"vm-1": {"refused": 5}})
    assert table.latest("vm-1", "allowed", 5) == table.latest("vm-1", "refused", 5) == []
    assert set(table.totals("vm-1").values()) == {0}
