"""Filehost: a host whose file pyro edits itself, because the host's own command loses comments or keys."""

from __future__ import annotations

import difflib
import re
from abc import abstractmethod

from pyro_mcp.errors import PyroError
from pyro_mcp.hosts.contract import ChatHost, Entry, EntryRefused, Found
from pyro_mcp.system.atomic import disk_errors
from pyro_mcp.system.process import CommandFailed

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class FileHost(ChatHost):
    """Edits the text, and has the host read it before the change counts as made."""

    @abstractmethod
    def prove(self, found: Found, name: str, entry: Entry | None) -> None:
        """Have the host's program read its file. Raises `PyroError` when it does not see what was written."""

    def change(self, found: Found, name: str, entry: Entry | None) -> None:
        text = self._edited(found, name, entry)
        self._make_directory(found)
        found.file.replace(text)
        try:
            self.prove(found, name, entry)
        except BaseException:
            found.file.restore(text)
            raise

    def diff(self, found: Found, name: str, entry: Entry | None) -> str:
        return unified(found.file.text or "", self._edited(found, name, entry), str(found.file.path))

    def _edited(self, found: Found, name: str, entry: Entry | None) -> str:
        text = found.file.text or ""
        with found.file.blamed():
            if entry is not None:
                return self.format.put(text, name, entry)
            return text if found.entry is None else self.format.drop(text, name)

    def _make_directory(self, found: Found) -> None:
        with disk_errors(f"write {found.file.path}"):
            found.file.real.parent.mkdir(parents=True, exist_ok=True)


def unified(old: str, new: str, path: str) -> str:
    """A unified diff without context, since the lines beside the change may hold other servers' keys."""
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), path, path, lineterm="", n=0)
    return "\n".join(lines)


def refused(host: ChatHost, error: PyroError, path: object) -> EntryRefused:
    """What the host's program said of the file, in one line."""
    return EntryRefused(
        f"cannot change {path}: {host.title} would not read it: {said_by(error)}",
        hint="The file is what it was before.",
    )


def said_by(error: PyroError) -> str:
    """What a program said before it failed, without colours and without a trace of its insides."""
    text = error.output if isinstance(error, CommandFailed) else error.message
    plain = _COLOUR.sub("", text).partition("Stack backtrace")[0]
    lines = [line.strip() for line in plain.splitlines() if line.strip() and not line.startswith("WARNING")]
    return " / ".join(lines)[:600] or error.message
