"""Every change that this process makes to its host, one after the other, and a way to break the N-th.

What Python itself reports (files made, renamed, removed, processes begun) comes from its audit hooks, writing and
flushing from wrappers, the store from SQLite's trace, and the product's own fault points are steps like all others.

Modes: `kill` ends the process there; `EIO` fails that one step; `ENOSPC` fails it and whatever takes space after it.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pyro_mcp.store.database import Database

Mode = Literal["kill", "EIO", "ENOSPC"]

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_TAKING = {"open", "os.mkdir", "os.link", "os.symlink", "socket.bind", "fsync", "pwrite", "write", "copy_file_range"}
"""What may find a disk full."""
_EVENTS = {"os.mkdir", "os.rename", "os.link", "os.symlink", "os.remove", "os.rmdir", "os.chmod", "os.truncate"}
_EVENTS |= {"subprocess.Popen", "socket.bind"}
_CALLS = ("fsync", "pwrite", "write", "copy_file_range")
_STATEMENTS = ("INSERT", "UPDATE", "DELETE", "COMMIT")


class Effects:
    """Counts effects once armed; `step` names the one that broke."""

    def __init__(self, mode: Mode, *, ignore: tuple[Path, ...] = ()) -> None:
        """`ignore`: files below these are the test's own."""
        self.count = 0
        self._ignore = ("/dev/", "/proc/", *map(str, ignore))
        self.step: str | None = None
        self._mode = mode
        self._left = 0
        self._full = False
        sys.addaudithook(self._audit)
        for name in _CALLS:
            setattr(os, name, self._counted(name, getattr(os, name)))

    def arm(self, number: int) -> None:
        self._left, self.count = number, 0

    def disarm(self) -> None:
        self._left, self._full = 0, False

    def faults(self, step: str) -> None:
        """The hook for an engine."""
        if self._mode == "kill":
            self._take("fault", step)

    def trace(self, database: Database) -> None:
        """Count what is written into the store. SQLite lets no exception through from there."""
        if self._mode == "kill":
            database._connection.set_trace_callback(self._statement)

    def _statement(self, sql: str) -> None:
        verb = sql.lstrip().split(None, 1)[0].upper()
        if verb in _STATEMENTS:
            self._take("sql", verb)

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if not (self._left or self._full):
            return
        if event == "open" and not (isinstance(args[2], int) and args[2] & _WRITES and not isinstance(args[0], int)):
            return
        if (event == "open" or event in _EVENTS) and not str(args[0]).startswith(self._ignore):
            self._take(event, str(args[0]))

    def _counted(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            descriptor = args[1] if name == "copy_file_range" else args[0]
            if (self._left or self._full) and stat.S_IFMT(os.fstat(descriptor).st_mode) in (stat.S_IFREG, stat.S_IFDIR):
                self._take(name, str(descriptor))
            return real(*args, **named)

        return call

    def _take(self, kind: str, about: str) -> None:
        if self._mode == "ENOSPC" and kind not in _TAKING:
            return
        if self._full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self._left:
            self.count += 1
            self._left -= 1
            if not self._left:
                self.step = f"{kind} {about}"
                self._break()

    def _break(self) -> None:
        if self._mode == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        self._full = self._mode == "ENOSPC"
        raise OSError(getattr(errno, self._mode), os.strerror(getattr(errno, self._mode)))
