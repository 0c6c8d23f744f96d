"""Contract: what pyro knows of a chat host, the program that starts `pyro mcp serve` and talks to a model.

A host keeps a table of servers in a file: a name, and an entry that says what to start. Each host has one module that
knows the file, the entry's form, and how to write it. Nobody else's entry and no comment is ever touched.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pyro_mcp.errors import Conflict, InvalidArgument, MissingDependency
from pyro_mcp.hosts.configfile import ConfigFile
from pyro_mcp.hosts.formats import Format
from pyro_mcp.model.host import HostApprovals
from pyro_mcp.system.process import find_program

Scope = Literal["user", "project", "local"]
Entry = dict[str, Any]
DEFAULT_NAME = "pyro"
SERVE = ("mcp", "serve")


@dataclass(frozen=True)
class Server:
    """What a host starts: a program and its words."""

    command: str
    args: tuple[str, ...]

    @property
    def options(self) -> tuple[str, ...] | None:
        """The words after `mcp serve`; None when those two are not there."""
        for at in range(len(self.args) - 1):
            if self.args[at : at + 2] == SERVE:
                return self.args[at + 2 :]
        return None

    @property
    def starts_pyro(self) -> bool:
        """Whether this is ours, be it damaged: it says `mcp serve`, or names pyro."""
        return self.options is not None or any("pyro" in Path(word).name for word in (self.command, *self.args))


@dataclass(frozen=True)
class Where:
    """From where hosts are looked at: the caller's variables and directory."""

    environ: Mapping[str, str]
    cwd: Path

    @property
    def home(self) -> Path:
        return Path(self.environ.get("HOME") or Path.home())

    def directory(self, variable: str, fallback: str) -> Path:
        """What `variable` names, else `fallback` below the home directory."""
        named = self.environ.get(variable, "")
        return self.cwd / named if named else self.home / fallback


@dataclass(frozen=True)
class Tool:
    """What a host judges a tool by before it runs it."""

    name: str
    read_only: bool
    destructive: bool
    open_world: bool


@dataclass(frozen=True)
class Found:
    """The entry at one scope: `entry` is None where there is none."""

    scope: Scope
    file: ConfigFile
    entry: Any


class ChatHost(ABC):
    """One chat host, seen from `where`."""

    name: ClassVar[str]
    title: ClassVar[str]
    program: ClassVar[str]
    scopes: ClassVar[tuple[Scope, ...]]
    format: ClassVar[Format]
    defaults: ClassVar[Mapping[str, Any]] = {}
    """What the host assumes of a key that an entry leaves out."""

    preferences: ClassVar[frozenset[str]] = frozenset()
    """Keys that pyro writes where they are missing; what a person set stays."""

    def __init__(self, where: Where) -> None:
        self.where = where

    @abstractmethod
    def path(self, scope: Scope, name: str) -> Path:
        """The file that holds, or would hold, the entry called `name`."""

    def hidden(self, scope: Scope, name: str) -> list[Path]:
        """Further files at `scope` that hold an entry called `name`, which the one in `path` hides."""
        return []

    @staticmethod
    @abstractmethod
    def entry(server: Server) -> Entry:
        """The keys that pyro answers for."""

    @abstractmethod
    def change(self, found: Found, name: str, entry: Entry | None) -> None:
        """Make the entry equal to `entry`, or remove it. Proves the result; on failure the file is what it was.

        Raises `PyroError`.
        """

    @abstractmethod
    def diff(self, found: Found, name: str, entry: Entry | None) -> str:
        """What `change` would change, as a unified diff without context: what stands beside it is nobody's business."""

    @abstractmethod
    def patience(self, entry: Entry) -> float:
        """Seconds after which the host begins a model's first turn without a server that is not up."""

    @abstractmethod
    def approvals(self, tools: Sequence[Tool], name: str, entry: Entry) -> HostApprovals:
        """Which tools it runs unasked."""

    def environ(self, entry: Entry) -> Mapping[str, Any]:
        """The variables that the entry adds."""
        found = entry.get("env")
        return found if isinstance(found, dict) else {}

    def find(self, scope: Scope, name: str, *, path: Path | None = None) -> Found:
        """The entry called `name`, the one that counts or that in `path`. Raises `PyroError` for a file that cannot be
        read."""
        file = ConfigFile.load(path or self.path(scope, name), within=self.where.cwd if scope == "project" else None)
        return Found(scope, file, self.read(file, scope).get(name))

    def read(self, file: ConfigFile, scope: Scope) -> Mapping[str, Any]:
        """All entries of `file`."""
        with file.blamed():
            return self.format.entries(file.text or "")

    def require(self) -> str:
        """The host's program. Raises `MissingDependency`."""
        found = find_program(self.program)
        if found is None:
            raise MissingDependency(
                f"cannot find {self.title}: no program {self.program!r} on PATH",
                hint=f"Install it, or see `pyro host print-config {self.name}` for what to put where.",
            )
        return str(found)

    def require_scope(self, scope: str) -> Scope:
        """`scope`, if this host knows it. Raises `InvalidArgument`."""
        for known in self.scopes:
            if known == scope:
                return known
        raise InvalidArgument(
            f"cannot use scope {scope!r} with {self.title}: it does not know it",
            hint=f"Scopes: {', '.join(self.scopes)}.",
        )


def server_of(entry: Any) -> Server | None:
    """What `entry` starts: `command` and `args`, or all words in `command`; None when it starts no program."""
    if not isinstance(entry, dict) or "url" in entry:
        return None
    command, args = entry.get("command"), entry.get("args", [])
    words = [*command] if isinstance(command, list) else [command, *(args if isinstance(args, list) else [])]
    if not words or not all(isinstance(word, str) for word in words):
        return None
    return Server(words[0], tuple(words[1:]))


class EntryRefused(Conflict):
    """A host would not have what was written; the file is what it was before."""
