"""The node's SQLite store: one file, one connection, one writer.

The connection holds the file exclusively, so WAL needs no shared memory (below SQLite 3.51.3 two connections on one
WAL can corrupt it) and nobody else can write. `synchronous=FULL`: what was acknowledged survives a power loss.
Repositories get this object and write inside `transaction()`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pyro_mcp.errors import DiskFull, PyroError
from pyro_mcp.model.count import count_of
from pyro_mcp.store import migrate
from pyro_mcp.system.reserve import Reserve

_log = logging.getLogger(__name__)

Statement = tuple[str, dict[str, Any]]


class Database:
    """An open store. Safe to share between threads; transactions are serialised."""

    def __init__(self, path: Path) -> None:
        """Open or create `path` and bring it to this version's schema.

        Raises `Unsupported` when a newer pyro wrote it (nothing is written then), `DiskFull`, or `PyroError` when
        the file is damaged.
        """
        self.path = path
        self._reserve = Reserve(path)
        self._lock = threading.RLock()
        self._owed: deque[tuple[Statement, ...]] = deque()
        migrate.refuse_newer(path)
        with _translated(path, "open"):
            _create_private(path)
            self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=1)
            try:
                self._prepare()
                self._reserve.keep()
            except BaseException:
                self._connection.close()
                raise

    def _prepare(self) -> None:
        self._connection.row_factory = sqlite3.Row
        for pragma in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            self._connection.execute(f"PRAGMA {pragma}")
        # 256 pages is 1 MiB: the store is small, and the node's memory is counted.
        self._connection.execute("PRAGMA cache_size=256")
        migrate.upgrade(self._connection)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing. On return everything inside is on disk; any error rolls it back."""
        with self._lock:
            self._pay()
            with self._whole() as connection:
                yield connection

    @contextlib.contextmanager
    def _whole(self) -> Iterator[sqlite3.Connection]:
        with _translated(self.path, "write"):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def note(self, *statements: Statement) -> None:
        """One transaction about what has happened and cannot be refused. A full disk only delays it: it is owed, gets
        in before anything else once there is room, and whoever reads finds it already."""
        with self._lock:
            self._owed.append(statements)
            with contextlib.suppress(DiskFull):
                self._pay()

    def _pay(self) -> None:
        """Write what is owed. Raises `DiskFull`, and what is wrong with a statement, which is not tried again."""
        while self._owed and not self._connection.in_transaction:
            due = self._owed.popleft()
            try:
                with self._whole() as connection:
                    _execute(connection, due)
            except DiskFull:
                self._owed.appendleft(due)
                raise

    def free(self, sql: str, parameters: dict[str, Any]) -> None:
        """One statement that lets something go, or says that it has gone. On a full disk it uses the room that was kept
        for it: refused, nothing could ever be deleted there."""
        try:
            self.write(sql, parameters)
        except DiskFull:
            self._reserve.release()
            self.write(sql, parameters)
        self._reserve.keep()

    def write(self, sql: str, parameters: dict[str, Any]) -> None:
        """One statement in a transaction of its own."""
        with self.transaction() as connection:
            connection.execute(sql, parameters)

    def rows(self, sql: str, parameters: dict[str, Any] | None = None) -> list[sqlite3.Row]:
        """The answer to one read-only statement."""
        with self._lock, _translated(self.path, "read"):
            with contextlib.suppress(DiskFull):
                self._pay()
            if not self._owed or self._connection.in_transaction:
                return self._connection.execute(sql, parameters or {}).fetchall()
            return self._foreseen(sql, parameters or {})

    def _foreseen(self, sql: str, parameters: dict[str, Any]) -> list[sqlite3.Row]:
        """The answer as it will be: what is owed is done in SQLite's memory, where it needs no room, and undone."""
        self._connection.execute("BEGIN")
        try:
            for due in self._owed:
                _execute(self._connection, due)
            return self._connection.execute(sql, parameters).fetchall()
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def check(self) -> str:
        """SQLite's own verdict on the file: "ok" or its first complaint."""
        return str(self.rows("PRAGMA quick_check(1)")[0][0])

    def close(self) -> None:
        """Fold the log into the file and close it. Idempotent. What is owed takes the reserve if it must."""
        with self._lock:
            try:
                self._pay_with_reserve()
            finally:
                self._connection.close()
                # The log is gone with the connection: there is room again.
                self._reserve.keep()

    def _pay_with_reserve(self) -> None:
        try:
            self._pay()
        except DiskFull:
            self._reserve.release()
            try:
                self._pay()
            except DiskFull as error:
                _log.warning(f"{count_of(len(self._owed), 'record')} could not be written: {error.message}")
                self._owed.clear()


def _execute(connection: sqlite3.Connection, statements: Iterable[Statement]) -> None:
    for sql, parameters in statements:
        connection.execute(sql, parameters)


def _create_private(path: Path) -> None:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))


@contextlib.contextmanager
def _translated(path: Path, verb: str) -> Iterator[None]:
    """SQLite's errors as ours."""
    try:
        yield
    except sqlite3.Error as error:
        cause = str(error)
        if "full" in cause:
            raise DiskFull(f"cannot {verb} the store {path}: the disk is full", hint="Free some space") from error
        hint = None
        if isinstance(error, sqlite3.DatabaseError) and ("malformed" in cause or "not a database" in cause):
            hint = f"Stop the node and move {path} away; a fresh one is made, and leftover machines are removed"
        elif "locked" in cause:
            hint = "Another program holds the file open; only the node may"
        raise PyroError(f"cannot {verb} the store {path}: {cause}", hint=hint) from error
