"""The node's log: what it, its libraries and the interpreter say, in one file that cannot grow without end.

Each line has its time and level, and names operations as the command line does: a person reads it. Nobody watches a
detached process, and a hostile guest can make it complain: past the bound, the file becomes `node.log.1` and a new one
begins, so at most twice the bound is ever kept.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from pathlib import Path

from pyro_mcp.node.verbs import every_operation
from pyro_mcp.operations.wording import Wording, command_line, command_on, flag

LOG_BYTES = 1024 * 1024
_WORDS = Wording(command_line, flag, every_operation, command_on)


class Lines(logging.Formatter):
    """`2026-11-27T22:50:57 WARNING pyro_mcp.node.adopt: cannot ...`. Of a text of several lines each begins so: none of
    them looks like another record."""

    def format(self, record: logging.LogRecord) -> str:
        head = f"{self.formatTime(record, '%Y-%m-%dT%H:%M:%S')} {record.levelname} {record.name}: "
        return "\n".join(head + line for line in _WORDS.text(super().format(record)).splitlines() or [""])


def log_to(handler: logging.Handler) -> None:
    """Send all records of this process to `handler` and to nobody else."""
    handler.setFormatter(Lines())
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    logging.captureWarnings(True)


class BoundedLog(logging.Handler):
    """Records into `path`. Also takes over file descriptors 1 and 2."""

    def __init__(self, path: Path, *, limit: int = LOG_BYTES) -> None:
        super().__init__()
        self._path = path
        self._limit = limit
        self._size = 0
        self._open()

    def install(self) -> None:
        """Send here what this process logs, and what goes to its standard output and error."""
        log_to(self)
        sys.stdout = sys.stderr = Stray()

    def emit(self, record: logging.LogRecord) -> None:
        self._put((self.format(record) + "\n").encode("utf-8", "replace"))

    def _put(self, data: bytes) -> None:
        try:
            if self._size + len(data) > self._limit:
                with contextlib.suppress(FileNotFoundError):
                    self._path.replace(self._path.with_suffix(".log.1"))
                self._open()
            self._size += os.write(2, data[: self._limit])
        except OSError:
            # A full disk, or a lack of descriptors, must not end whoever wanted to say so.
            pass

    def _open(self) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            self._size = os.fstat(descriptor).st_size
            for standard in (1, 2):
                os.dup2(descriptor, standard)
        finally:
            os.close(descriptor)


class Stray(io.TextIOBase):
    """Standard output and error of a process that writes neither: what comes there, such as the traceback of a thread,
    is an error, line by line."""

    def __init__(self) -> None:
        self._begun = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            logging.getLogger("stderr").error("%s", line)
        return len(text)

    def flush(self) -> None:
        if self._begun:
            self.write("\n")
