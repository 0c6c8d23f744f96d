"""What of a checkout's `.git` travels, so that git works on the copy and nothing of this host comes along.

Taken is what a list here names: objects, references, the index, what is under way. Hooks, locks, submodules and
whatever else lies there stay. Every step is an `openat` below the open directory and none follows a link.

The configuration is written anew from the settings that mean the same inside. What else it holds may name programs and
files of this host or open doors (`http.extraHeader`, a login in a URL), and is left out and listed.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from pyro_mcp.errors import InvalidArgument, Unsupported
from pyro_mcp.protocol.entries import EntryError, safe_path
from pyro_mcp.system.git import without_credentials

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FILES = re.compile(
    r"HEAD|ORIG_HEAD|index|sharedindex\.[0-9a-f]+|packed-refs|shallow|description|MERGE_(HEAD|MSG|MODE|RR)|AUTO_MERGE"
    r"|(CHERRY_PICK|REVERT|REBASE)_HEAD|SQUASH_MSG|BISECT_[A-Z_]+"
)
_DIRECTORIES = ("objects", "refs", "logs", "info", "reftable", "rebase-merge", "rebase-apply", "sequencer")
_UNFINISHED = re.compile(r"(^|/)(\.?tmp[_-][^/]*|[^/]*\.lock)$")
_OPAQUE = re.compile(r"objects/|index$|sharedindex\.|reftable/")
"""What is no text: it travels as it is."""

_TEXT_MAX = 1 << 20
_HEAD_MAX = 4096
_LEVELS = 5
_LEFT_SHOWN = 300

Mark = tuple[int, int, int] | None
"""A file's number, size and time of change; None of a directory."""


class GitDirectory:
    """An open `.git`. Close it. Raises `OSError` where a method does not say more."""

    def __init__(self, descriptor: int, root: Path) -> None:
        self._descriptor = descriptor
        self._root = root

    def close(self) -> None:
        os.close(self._descriptor)

    def has(self, name: str) -> bool:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)
            return True
        return False

    def names(self, directory: str) -> list[str]:
        """What lies in `directory`; nothing when there is no such directory."""
        try:
            at = os.open(directory, DIRECTORY, dir_fd=self._descriptor)
        except OSError:
            return []
        try:
            return os.listdir(at)
        finally:
            os.close(at)

    def read(self, path: str, limit: int) -> bytes | None:
        """The file `path`; None when there is no plain file of at most `limit` bytes."""
        with contextlib.ExitStack() as stack:
            try:
                file = self._open(stack, path)
            except OSError:
                return None
            about = os.fstat(file)
            if not stat.S_ISREG(about.st_mode) or about.st_size > limit:
                return None
            with open(os.dup(file), "rb") as opened:
                return opened.read(limit)

    def _open(self, stack: contextlib.ExitStack, path: str) -> int:
        *above, name = path.split("/")
        at = self._descriptor
        for part in above:
            at = os.open(part, DIRECTORY, dir_fd=at)
            stack.callback(os.close, at)
        file = os.open(name, _FILE, dir_fd=at)
        stack.callback(os.close, file)
        return file

    def census(self) -> dict[str, Mark]:
        """What travels, by its path below `.git`. Raises `Unsupported` for a link, which leads nowhere inside."""
        found: dict[str, Mark] = {}
        with os.scandir(self._descriptor) as entries:
            names = [entry.name for entry in entries]
        for name in names:
            if _FILES.fullmatch(name):
                found[name] = self._mark(name, name, self._descriptor)
            elif name in _DIRECTORIES:
                found |= self._below(name)
        return found

    def _below(self, top: str) -> dict[str, Mark]:
        self._mark(top, top, self._descriptor)
        found: dict[str, Mark] = {}
        for directory, below, names, at in os.fwalk(top, dir_fd=self._descriptor, follow_symlinks=False):
            found[directory] = None
            for name in (*below, *names):
                path = f"{directory}/{name}"
                if not _UNFINISHED.search(path):
                    # One that went just now: git has renamed it or dropped it, and whoever compares will see.
                    with contextlib.suppress(FileNotFoundError):
                        found[path] = self._mark(path, name, at)
        return found

    def _mark(self, path: str, name: str, at: int) -> Mark:
        about = os.stat(name, dir_fd=at, follow_symlinks=False)
        if stat.S_ISLNK(about.st_mode):
            raise Unsupported(
                f"cannot take {self._root} with its repository: .git/{path} is a symbolic link, which leads nowhere"
                " inside a workspace",
                hint="Put what it names in its place, or leave <<create_workspace.git>> out",
            )
        return None if stat.S_ISDIR(about.st_mode) else (about.st_ino, about.st_size, about.st_mtime_ns)

    def cleaned(self, paths: Iterable[str]) -> dict[str, bytes]:
        """The texts of `paths` that hold a login in a URL, without it."""
        found = {}
        for path in paths:
            if _OPAQUE.match(path) or (text := self.read(path, _TEXT_MAX)) is None:
                continue
            if (bare := without_credentials(text)) != text:
                found[path] = bare
        return found

    def head(self) -> tuple[str | None, str | None]:
        """The commit and the branch that are checked out, each None where there is none."""
        first = self._value("HEAD")
        branch = first.removeprefix("ref: refs/heads/") if first and first.startswith("ref: refs/heads/") else None
        value = first
        for _ in range(_LEVELS):
            if value is None or not value.startswith("ref: "):
                break
            value = self._reference(value.removeprefix("ref: ").strip())
        return value if value and re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", value) else None, branch

    def _reference(self, name: str) -> str | None:
        with contextlib.suppress(EntryError):
            if safe_path(name).startswith("refs/") and (value := self._value(name)) is not None:
                return value
        packed = self.read("packed-refs", 64 * _TEXT_MAX) or b""
        found = re.search(rb"^([0-9a-f]+) " + re.escape(os.fsencode(name)) + rb"$", packed, re.MULTILINE)
        return found[1].decode() if found else None

    def _value(self, path: str) -> str | None:
        text = self.read(path, _HEAD_MAX)
        return None if text is None else os.fsdecode(text).strip()

    def copy(self, path: str, target: Path, limit: int) -> None:
        """Copy the file `path`, if it is there. Raises `InvalidArgument` when it is larger than `limit`."""
        data = self.read(path, limit)
        if data is None and self.has(path):
            raise InvalidArgument(f"cannot take {self._root} with its repository: .git/{path} is no file of a fit size")
        if data is not None:
            target.write_bytes(data)


_CORE = "filemode symlinks ignorecase autocrlf eol safecrlf logallrefupdates precomposeunicode sparsecheckout"
_CARRIED = re.compile(
    rf"core\.({_CORE.replace(' ', '|')}|sparsecheckoutcone|quotepath)|core\.repositoryformatversion|index\.sparse"
    r"|extensions\.(objectformat|partialclone|refstorage|preciousobjects|noop)|user\.(name|email)"
    r"|remote\..+\.(url|pushurl|fetch|tagopt|promisor|partialclonefilter)|branch\..+\.(remote|merge|rebase)",
    re.DOTALL,
)
_OURS = re.compile(r"core\.bare|extensions\.worktreeconfig")
"""Settings that have no meaning in the copy, or always the same."""
_IDENTITY = (("user.name", "pyro workspace"), ("user.email", "workspace@pyro.invalid"))
"""Who commits inside where the repository names nobody: git refuses to commit for nobody."""


class GitConfig:
    """The settings of a repository, as `git config --list -z` gives them."""

    def __init__(self, listed: bytes, root: Path) -> None:
        self._root = root
        self._pairs = [_pair(item) for item in listed.split(b"\0") if item]

    def value(self, key: str) -> str | None:
        return next((value for name, value in reversed(self._pairs) if name == key), None)

    @property
    def partial(self) -> bool:
        """Whether the repository lacks objects that it would fetch when they are asked for."""
        return any(name.startswith("remote.") and name.endswith(".promisor") for name, _ in self._pairs)

    def check(self) -> None:
        """Raises `Unsupported` for an extension that this cannot carry."""
        for name, _ in self._pairs:
            if name.startswith("extensions.") and not (_CARRIED.fullmatch(name) or _OURS.fullmatch(name)):
                raise Unsupported(f"cannot take {self._root} with its repository: it uses {name[:100]}")

    def text(self) -> bytes:
        """The configuration of the copy."""
        kept = [(name, value) for name, value in self._pairs if _CARRIED.fullmatch(name)]
        named = {name for name, _ in kept}
        pairs = [("core.bare", "false"), *kept, *((name, value) for name, value in _IDENTITY if name not in named)]
        return without_credentials(os.fsencode("".join(_written(pairs))))

    def left(self) -> str | None:
        """What is left out, for a person; None for nothing."""
        names = [name for name, _ in self._pairs if not (_CARRIED.fullmatch(name) or _OURS.fullmatch(name))]
        found = list(dict.fromkeys(names))
        for name, value in self._pairs:
            text = os.fsencode(value)
            if _CARRIED.fullmatch(name) and without_credentials(text) != text:
                found.append(f"the login in {name}")
        if not found:
            return None
        shown = ", ".join(found)
        return f"left out: {shown if len(shown) <= _LEFT_SHOWN else shown[:_LEFT_SHOWN] + '…'}"


def _pair(item: bytes) -> tuple[str, str]:
    name, newline, value = os.fsdecode(item).partition("\n")
    return name, value if newline else "true"


def _written(pairs: Iterable[tuple[str, str]]) -> Iterator[str]:
    for name, same in itertools.groupby(pairs, key=lambda pair: pair[0].rpartition(".")[0]):
        section, dot, below = name.partition(".")
        yield f'[{section} "{_escaped(below)}"]\n' if dot else f"[{section}]\n"
        for full, value in same:
            yield f'\t{full.rpartition(".")[2]} = "{_escaped(value)}"\n'


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")


def stays(git: GitDirectory) -> list[tuple[str, str]]:
    """What of a repository stays on this host although somebody may look for it, and why."""
    found = []
    if any(not name.endswith(".sample") for name in git.names("hooks")):
        found.append((".git/hooks", "hooks stay on this host"))
    if git.has("modules"):
        found.append((".git/modules", "the repositories of submodules stay on this host"))
    if git.has("lfs"):
        found.append((".git/lfs", "what git-lfs keeps stays on this host"))
    return found
