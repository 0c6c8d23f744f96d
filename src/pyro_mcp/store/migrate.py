"""Bring the store from any earlier version to this one, in one transaction per migration.

`migrations/NNNN_name.sql` are applied in order; `PRAGMA user_version` holds the number of the last one and changes
in the same transaction, so a kill at any statement leaves either version, never a mixture.
"""

from __future__ import annotations

import contextlib
import sqlite3
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from pyro_mcp.errors import Unsupported

APPLICATION_ID = 0x7079726F
_MAGIC = b"SQLite format 3\0"
_HEADER_BYTES = 100
_USER_VERSION = struct.Struct(">I")
_USER_VERSION_AT = 60
MIGRATIONS = Path(__file__).parent / "migrations"


def latest() -> int:
    """The version this code reads and writes."""
    return max(_scripts(MIGRATIONS))


def refuse_newer(path: Path) -> None:
    """Raise `Unsupported` when a newer pyro wrote `path`; reads the header only, so nothing is ever written."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        header = file.read(_HEADER_BYTES)
        if len(header) == _HEADER_BYTES and header.startswith(_MAGIC):
            _refuse(_USER_VERSION.unpack_from(header, _USER_VERSION_AT)[0])


def upgrade(
    connection: sqlite3.Connection,
    directory: Path = MIGRATIONS,
    *,
    before_statement: Callable[[int, str], None] = lambda version, statement: None,
) -> int:
    """Apply what is missing and return the resulting version. Needs an autocommit connection.

    `before_statement(version, sql)` is the fault point for tests.
    """
    current = int(connection.execute("PRAGMA user_version").fetchone()[0])
    scripts = _scripts(directory)
    _refuse(current, max(scripts))
    for version in sorted(number for number in scripts if number > current):
        _apply(connection, version, scripts[version].read_text("utf-8"), before_statement)
    if current < max(scripts):
        # Into the file itself, so that an older pyro sees the new version in the header.
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return max(scripts)


def _apply(
    connection: sqlite3.Connection, version: int, script: str, before_statement: Callable[[int, str], None]
) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in (*_statements(script), f"PRAGMA user_version={version}"):
            before_statement(version, statement)
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _statements(script: str) -> Iterator[str]:
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            yield pending.strip()
            pending = ""


def _scripts(directory: Path) -> dict[int, Path]:
    return {int(path.name[:4]): path for path in directory.glob("[0-9][0-9][0-9][0-9]_*.sql")}


def _refuse(found: int, known: int | None = None) -> None:
    known = latest() if known is None else known
    if found > known:
        raise Unsupported(
            f"cannot open the store: its version is {found}, this pyro knows up to {known}",
            hint="Use the newer pyro that wrote it, or another PYRO_STATE_DIR; nothing was changed",
        )
