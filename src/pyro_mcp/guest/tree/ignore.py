"""ignore: what a directory's .gitignore leaves out, by git's rules and without git.

A pattern counts from the directory of its file; of several the last that matches decides, and a deeper file comes after
one above; what is in a directory that is left out is left out too. Of a file or pattern beyond the bounds nothing is
taken, so in doubt something is shown. `.git/info/exclude` counts before all `.gitignore` of its repository. What a
person has for all repositories is not in a workspace.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from functools import cached_property

from pyro_mcp.guest.tree.wildcard import name_pattern, path_pattern

MAX_FILE = 64 * 1024
MAX_PATTERNS = 2000
MAX_PATTERN = 1024
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Patterns:
    """The lines of one ignore file, or patterns that were given one by one."""

    def __init__(self, lines: Sequence[bytes]) -> None:
        self._groups: list[_Group] = []
        for line in lines[:MAX_PATTERNS]:
            self._add(line)
        self._groups.reverse()

    @classmethod
    def parse(cls, text: bytes) -> Patterns:
        return cls(text.removeprefix(b"\xef\xbb\xbf").split(b"\n"))

    def __bool__(self) -> bool:
        return bool(self._groups)

    def verdict(self, path: bytes, *, directory: bool) -> bool | None:
        """Whether `path`, from the patterns' directory on, is left out; None when they do not say."""
        return next((not group.negated for group in self._groups if group.matches(path, directory)), None)

    def _add(self, line: bytes) -> None:
        pattern = _bare(line)
        negated = pattern.startswith(b"!")
        pattern = pattern[negated:]
        only_directories = pattern.endswith(b"/")
        pattern = pattern[: len(pattern) - only_directories]
        if not pattern or len(pattern) > MAX_PATTERN:
            return
        if not self._groups or self._groups[-1].negated != negated:
            self._groups.append(_Group(negated))
        self._groups[-1].add(pattern, only_directories)


class _Group:
    """Patterns in a row of which any one decides the same, as few expressions as possible."""

    def __init__(self, negated: bool) -> None:
        self.negated = negated
        self._parts: dict[tuple[bool, bool], list[bytes]] = {}
        """By whether they look at the whole path, and at directories only."""

    def add(self, pattern: bytes, only_directories: bool) -> None:
        whole = b"/" in pattern
        made = path_pattern(pattern.removeprefix(b"/")) if whole else name_pattern(pattern)
        self._parts.setdefault((whole, only_directories), []).append(made)

    @cached_property
    def _made(self) -> list[tuple[bool, bool, re.Pattern[bytes]]]:
        return [
            (whole, only_directories, re.compile(b"(?s:" + b"|".join(parts) + b")"))
            for (whole, only_directories), parts in self._parts.items()
        ]

    def matches(self, path: bytes, directory: bool) -> bool:
        name = path.rpartition(b"/")[2]
        return any(
            made.fullmatch(path if whole else name)
            for whole, only_directories, made in self._made
            if directory or not only_directories
        )


class IgnoreRules:
    """What counts in one directory: its own rules and those above. `fd` must stay open as long as it is asked; files
    are only read then."""

    def __init__(self, fd: int, name: bytes = b"", above: IgnoreRules | None = None) -> None:
        self._fd = fd
        self._name = name
        self._above = above
        self._left_out: bool | None = None
        """Whether this directory itself is left out, once that is known."""

    def enter(self, name: bytes, fd: int) -> IgnoreRules:
        """The rules in its directory `name`."""
        return IgnoreRules(fd, name, self)

    def ignores(self, name: bytes, *, directory: bool) -> bool:
        """Whether `name` in this directory is left out."""
        unknown: list[IgnoreRules] = []
        rules: IgnoreRules | None = self
        while rules is not None and rules._left_out is None:
            unknown.append(rules)
            rules = rules._above
        for rules in reversed(unknown):
            above = rules._above
            rules._left_out = above is not None and (bool(above._left_out) or above._names(rules._name, directory=True))
        return bool(self._left_out) or self._names(name, directory=directory)

    def _names(self, name: bytes, *, directory: bool) -> bool:
        """Whether a pattern leaves `name` out, whatever becomes of this directory."""
        rules: IgnoreRules | None = self
        path = name
        while rules is not None:
            for patterns in rules._own:
                verdict = patterns.verdict(path, directory=directory)
                if verdict is not None:
                    return verdict
            path = rules._name + b"/" + path
            rules = rules._above
        return False

    @cached_property
    def _own(self) -> list[Patterns]:
        """Those that decide first come first."""
        found = [_read(self._fd, b".gitignore"), _read_below(self._fd, (b".git", b"info"), b"exclude")]
        return [patterns for patterns in map(Patterns.parse, found) if patterns]


def _bare(line: bytes) -> bytes:
    """The pattern in a line: empty for a comment; blanks at the end go unless a backslash stands before them."""
    line = line.removesuffix(b"\r")
    if line.startswith(b"#"):
        return b""
    kept = line.rstrip(b" ")
    escaped = (len(kept) - len(kept.rstrip(b"\\"))) % 2
    return line[: len(kept) + 1] if escaped and len(kept) < len(line) else kept


def _read(directory: int, name: bytes) -> bytes:
    """The regular file `name`, empty when there is none that may be read, or it is too large. No link is followed."""
    try:
        fd = os.open(name, _FILE, dir_fd=directory)
    except OSError:
        return b""
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return b""
        data = b""
        while len(data) <= MAX_FILE and (piece := os.read(fd, MAX_FILE + 1 - len(data))):
            data += piece
        return data if len(data) <= MAX_FILE else b""
    except OSError:
        return b""
    finally:
        os.close(fd)


def _read_below(directory: int, way: Sequence[bytes], name: bytes) -> bytes:
    if not way:
        return _read(directory, name)
    try:
        fd = os.open(way[0], _DIRECTORY, dir_fd=directory)
    except OSError:
        return b""
    try:
        return _read_below(fd, way[1:], name)
    finally:
        os.close(fd)
