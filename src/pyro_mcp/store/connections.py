"""The connections table: what machines reached over the network, tried to reach, and were refused.

Entries belong to the machine, so they end with it, at a reset too. Each machine keeps its latest, connections and the
rest apart, so that no flood of refusals washes away where it has been; the totals know them all.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any

from pyro_mcp.model.network import Connection
from pyro_mcp.store.database import Database

KEPT_MAX = 5000

_COLUMNS = (
    *("machine_id", "recorded_at", "verdict", "name", "address", "port", "reason", "hint"),
    *("bytes_in", "bytes_out", "duration_ms", "count"),
)
# What a machine did that is gone by now is nobody's any more.
_INSERT = (
    f"INSERT INTO connections ({', '.join(_COLUMNS)}) SELECT {', '.join(':' + name for name in _COLUMNS)}"
    " WHERE EXISTS (SELECT 1 FROM machines WHERE machine_id=:machine_id)"
)
_COUNT = (
    " ON CONFLICT (machine_id, verdict, name, address, port, reason) WHERE verdict<>'allowed'"
    " DO UPDATE SET count=count+excluded.count, recorded_at=excluded.recorded_at"
)
_UPDATE = (
    "UPDATE connections SET bytes_in=:bytes_in, bytes_out=:bytes_out, duration_ms=:duration_ms, reason=:reason"
    " WHERE connection_id=:kept_as"
)
_TOTALS = ("allowed", "refused", "failed", "bytes_in", "bytes_out", "forgotten")
_ADD = (
    f"INSERT INTO connection_totals (machine_id, {', '.join(_TOTALS)}) SELECT :machine_id,"
    f" {', '.join(':' + name for name in _TOTALS)} WHERE EXISTS (SELECT 1 FROM machines WHERE machine_id=:machine_id)"
    f" ON CONFLICT (machine_id) DO UPDATE SET {', '.join(f'{name}={name}+excluded.{name}' for name in _TOTALS)}"
)
_TRIM = (
    "DELETE FROM connections WHERE connection_id IN (SELECT connection_id FROM connections WHERE machine_id=:machine_id"
    " AND (verdict='allowed')=:allowed ORDER BY recorded_at DESC, connection_id DESC LIMIT -1 OFFSET :kept)"
)


class Connections:
    """The only code that writes the connections tables. Every method is one transaction."""

    def __init__(self, database: Database, *, kept: int = KEPT_MAX) -> None:
        self._database = database
        self._kept = kept

    def write(
        self,
        begun: Iterable[Connection],
        ended: Iterable[Connection],
        counted: Iterable[Connection],
        overflow: Mapping[str, Mapping[str, int]],
    ) -> None:
        """Keep what came about, what of it has ended, and what did not come about, the last added to its like.

        `overflow` is what each machine's totals grow by besides.
        """
        sums: dict[str, dict[str, int]] = {}
        kept: list[tuple[Connection, int | None, int, int]] = []
        with self._database.transaction() as connection:
            for one in (*begun, *ended):
                values = _values(one)
                new = one.kept_as is None
                done = connection.execute(_INSERT if new else _UPDATE, values)
                number = done.lastrowid if new and done.rowcount else one.kept_as
                kept.append((one, number, values["bytes_in"], values["bytes_out"]))
                _add(sums, one.machine_id, "allowed", int(new))
                _add(sums, one.machine_id, "bytes_in", values["bytes_in"] - one.kept_in)
                _add(sums, one.machine_id, "bytes_out", values["bytes_out"] - one.kept_out)
            for one in counted:
                connection.execute(_INSERT + _COUNT, _values(one))
                _add(sums, one.machine_id, one.verdict, one.count)
            for machine_id, more in overflow.items():
                for name, count in more.items():
                    _add(sums, machine_id, name, count)
            for machine_id, added in sums.items():
                for allowed in (0, 1):
                    which = {"machine_id": machine_id, "allowed": allowed, "kept": self._kept}
                    _add(sums, machine_id, "forgotten", connection.execute(_TRIM, which).rowcount)
                connection.execute(_ADD, {"machine_id": machine_id, **dict.fromkeys(_TOTALS, 0), **added})
        for one, number, bytes_in, bytes_out in kept:
            one.kept_as, one.kept_in, one.kept_out = number, bytes_in, bytes_out

    def totals(self, machine_id: str) -> dict[str, int]:
        found = self._rows(f"SELECT {', '.join(_TOTALS)} FROM connection_totals WHERE machine_id=:id", machine_id)
        return dict(found[0]) if found else dict.fromkeys(_TOTALS, 0)

    def destinations(self, machine_id: str, limit: int) -> list[sqlite3.Row]:
        """`name address port connections bytes_in bytes_out`, the busiest first; a name's addresses count as one."""
        return self._rows(
            "SELECT name, max(address) AS address, port, sum(count) AS connections, sum(bytes_in) AS bytes_in,"
            " sum(bytes_out) AS bytes_out FROM connections WHERE machine_id=:id AND verdict='allowed'"
            " GROUP BY CASE name WHEN '' THEN address ELSE name END, port"
            " ORDER BY sum(bytes_in)+sum(bytes_out) DESC, connections DESC, name, address, port LIMIT :limit",
            machine_id,
            limit,
        )

    def latest(self, machine_id: str, verdict: str, limit: int) -> list[sqlite3.Row]:
        """The entries with `verdict`, the latest first."""
        return self._rows(
            "SELECT * FROM connections WHERE machine_id=:id AND verdict=:verdict"
            " ORDER BY recorded_at DESC, connection_id DESC LIMIT :limit",
            machine_id,
            limit,
            verdict=verdict,
        )

    def _rows(self, sql: str, machine_id: str, limit: int = 1, **values: str) -> list[sqlite3.Row]:
        return self._database.rows(sql, {"id": machine_id, "limit": limit, **values})


def _values(one: Connection) -> dict[str, Any]:
    names = ("machine_id", "verdict", "name", "address", "port", "reason", "hint", "duration_ms", "count", "kept_as")
    values = {name: getattr(one, name) for name in names}
    return values | {"recorded_at": one.at, "bytes_in": one.bytes_in, "bytes_out": one.bytes_out}


def _add(sums: dict[str, dict[str, int]], machine_id: str, name: str, count: int) -> None:
    mine = sums.setdefault(machine_id, {})
    mine[name] = mine.get(name, 0) + count
