"""Reading unified diffs the way models and people write them.

What `git apply` accepts is accepted. So is, because models do it all the time: prose and Markdown fences around the
diff, hunk headers with wrong counts or no numbers, blank context lines without their leading space. Where it is not
clear what is meant, the patch is refused. (`unidiff` reads well-formed text only: a second reader would stand beside.)
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from pyro_mcp.errors import InvalidArgument
from pyro_mcp.trees.names import show, unquote

DEV_NULL = b"/dev/null"
PREFIXES = frozenset(b"abciow")
"""The letters of the directory that git puts in front of names."""
_HUNK = re.compile(rb"@@ -(\d{1,9})(?:,(\d{1,9}))? \+(\d{1,9})(?:,(\d{1,9}))? @@")
_EPOCH = re.compile(rb"(1970-01-01|1969-12-31) \d\d:\d\d:\d\d")
_EXTENDED = {
    b"old mode ": "old_mode",
    b"new mode ": "new_mode",
    b"new file mode ": "created_mode",
    b"deleted file mode ": "deleted_mode",
    b"rename from ": "rename_from",
    b"rename to ": "rename_to",
    b"copy from ": "copy_from",
    b"copy to ": "copy_to",
}
SHAPE = "Give a unified diff: `--- a/FILE`, `+++ b/FILE`, then hunks that begin with `@@ -LINE,COUNT +LINE,COUNT @@`"


@dataclass(frozen=True)
class Hunk:
    """Lines with their ends, each beside its sign: b" " stays, b"-" goes, b"+" comes.

    `start` is the line number in the old file, None when the header gave none; `at` is the header's line in the patch.
    """

    number: int
    start: int | None
    lines: list[tuple[bytes, bytes]]
    at: int

    def side(self, sign: bytes) -> list[bytes]:
        """The old lines (`-`) or the new ones (`+`)."""
        return [line for mark, line in self.lines if mark in (b" ", sign)]


@dataclass
class FilePatch:
    """One file's section of a patch: what its headers say, as they say it, and its hunks."""

    at: int
    git: bytes | None = None
    old: bytes | None = None
    new: bytes | None = None
    old_stamp: bytes = b""
    new_stamp: bytes = b""
    fields: dict[str, bytes] = field(default_factory=dict)
    binary: bool = False
    hunks: list[Hunk] = field(default_factory=list)

    @property
    def name(self) -> bytes:
        """What to call it in messages: as in the workspace, without git's letter in front."""
        moved = self.fields.get("rename_to") or self.fields.get("copy_to")
        if moved is not None:
            return moved
        for name in (self.new, self.old, *reversed(git_names(self.git or b"") or ())):
            if name is not None and name != DEV_NULL:
                return name[2:] if len(name) > 2 and name[0] in PREFIXES and name[1:2] == b"/" else name
        return self.git or DEV_NULL


def parse(text: bytes) -> list[FilePatch]:
    """The sections of a patch, in order. Raises `InvalidArgument` naming the line that makes no sense."""
    lines = split_lines(text if text.endswith(b"\n") else text + b"\n")
    if lines and all(line.endswith(b"\r\n") for line in lines[:-1]) and any(line[:2] == b"@@" for line in lines[:-1]):
        lines = [line[:-2] + b"\n" if line.endswith(b"\r\n") else line for line in lines]
    reader = _PatchReader(lines)
    reader.read()
    if not reader.files:
        raise InvalidArgument("cannot read the patch: it has no file header", hint=SHAPE)
    return reader.files


def split_lines(text: bytes) -> list[bytes]:
    """The lines of `text` with their line feeds; nothing but a line feed ends a line."""
    lines = text.split(b"\n")
    last = lines.pop()
    return [line + b"\n" for line in lines] + ([last] if last else [])


class _PatchReader:
    def __init__(self, lines: list[bytes]) -> None:
        self.files: list[FilePatch] = []
        self._lines = lines
        self._at = 0
        self._prose = True
        """Whether lines that belong to nothing are expected: before the first header and after a closing fence."""

    def read(self) -> None:
        while self._at < len(self._lines):
            line = self._bare(self._at)
            if line.startswith(b"diff --git "):
                self._begin(FilePatch(self._at + 1, git=line[len(b"diff --git ") :]))
            elif self._names_follow(self._at):
                self._names()
            elif line.startswith(b"@@") and (not self._prose or _HUNK.match(line)):
                self._hunk()
                continue
            elif self.files and not self._prose:
                self._extra(line)
            self._at += 1

    def _bare(self, at: int) -> bytes:
        return self._lines[at].rstrip(b"\r\n") if at < len(self._lines) else b""

    def _begin(self, patch: FilePatch) -> None:
        self.files.append(patch)
        self._prose = False

    def _names_follow(self, at: int) -> bool:
        return self._bare(at).startswith(b"--- ") and self._bare(at + 1).startswith(b"+++ ")

    def _names(self) -> None:
        current = self.files[-1] if self.files else None
        if current is None or current.git is None or current.old is not None or self._prose:
            self._begin(FilePatch(self._at + 1))
        current = self.files[-1]
        current.old, current.old_stamp = _name(self._bare(self._at)[4:])
        current.new, current.new_stamp = _name(self._bare(self._at + 1)[4:])
        self._at += 1

    def _extra(self, line: bytes) -> None:
        current = self.files[-1]
        for prefix, key in _EXTENDED.items():
            if line.startswith(prefix) and not current.hunks:
                current.fields[key] = line[len(prefix) :]
        if line == b"GIT binary patch" or (line.startswith(b"Binary files ") and line.endswith(b" differ")):
            current.binary = True
        if line.startswith(b"```") or self._signature(self._at):
            self._prose = True
        elif line[:1] in (b"+", b"-", b"\\") and not current.binary:
            raise self._unclear(self._at, "it belongs to no hunk")

    def _hunk(self) -> None:
        header, at = self._bare(self._at), self._at
        if not self.files or (self.files[-1].old is None and self.files[-1].git is None):
            raise self._unclear(at, "a hunk without a file name above it")
        match = _HUNK.match(header)
        counts = (int(match[2] or 1), int(match[4] or 1)) if match else None
        body = self._counted(at + 1, *counts) if counts else None
        lines, self._at = body or self._loose(at + 1)
        current = self.files[-1]
        if not lines:
            raise self._unclear(at, "a hunk without lines")
        current.hunks.append(Hunk(len(current.hunks) + 1, int(match[1]) if match else None, lines, at + 1))

    def _counted(self, at: int, old: int, new: int) -> tuple[list[tuple[bytes, bytes]], int] | None:
        """The hunk's body by the header's counts; None when it does not agree with them."""
        lines: list[tuple[bytes, bytes]] = []
        while old > 0 or new > 0 or (at < len(self._lines) and self._lines[at][:1] == b"\\"):
            if at >= len(self._lines):
                return None
            sign, line = _signed(self._lines[at])
            if sign == b"\\" and lines:
                lines[-1] = (lines[-1][0], lines[-1][1].removesuffix(b"\n"))
            elif sign in (b" ", b"+", b"-"):
                old, new = old - (sign != b"+"), new - (sign != b"-")
                lines.append((sign, line))
            else:
                return None
            at += 1
        # Too few lines may have been counted: then the body goes on.
        goes_on = self._bare(at)[:1] in (b" ", b"+", b"-") and self._bare(at).strip() != b""
        if old < 0 or new < 0 or (goes_on and not self._names_follow(at) and not self._signature(at)):
            return None
        return lines, at

    def _loose(self, at: int) -> tuple[list[tuple[bytes, bytes]], int]:
        """The hunk's body by what the lines look like."""
        lines: list[tuple[bytes, bytes]] = []
        blank = 0
        while at < len(self._lines) and not self._ends_hunk(at):
            sign, line = _signed(self._lines[at])
            if sign == b"\\" and lines:
                lines[-1] = (lines[-1][0], lines[-1][1].removesuffix(b"\n"))
            elif sign in (b" ", b"+", b"-"):
                blank = blank + 1 if self._bare(at) == b"" else 0
                lines.append((sign, line))
            elif blank:
                break
            else:
                raise self._unclear(at, "a hunk's line begins with a space, `+` or `-`")
            at += 1
        return lines[: len(lines) - blank], at

    def _ends_hunk(self, at: int) -> bool:
        line = self._bare(at)
        marks = (b"@@", b"diff --git ", b"```", b"Index: ", b"Only in ", b"=====")
        return line.startswith(marks) or self._names_follow(at) or self._signature(at)

    def _signature(self, at: int) -> bool:
        """Whether here begins the mail signature that `git format-patch` puts last."""
        return self._bare(at) in (b"-- ", b"--") and len(self._lines) - at <= 4

    def _unclear(self, at: int, why: str) -> InvalidArgument:
        return InvalidArgument(f"cannot read the patch: line {at + 1}: {why}: {show(self._bare(at))}", hint=SHAPE)


def _signed(line: bytes) -> tuple[bytes, bytes]:
    """A body line's sign and the rest. Editors and models strip the space of an empty context line."""
    return (b" ", line) if line in (b"\n", b"\r\n") else (line[:1], line[1:])


def _name(text: bytes) -> tuple[bytes, bytes]:
    """The name in a `---` or `+++` line and the time stamp behind it."""
    if text.startswith(b'"'):
        end = re.match(rb'"(?:[^"\\]|\\.)*"', text)
        if end is None:
            return unquote(text), b""
        return unquote(end[0]), text[end.end() :].strip()
    name, _, stamp = text.partition(b"\t")
    plain = re.fullmatch(rb"(.*?) +(\d{4}-\d\d-\d\d \d\d:\d\d.*)", name)
    return (plain[1], plain[2]) if plain else (name if _ else name.rstrip(b" "), stamp)


def is_epoch(stamp: bytes) -> bool:
    """Whether a plain diff's time stamp is its way to say that the file did not exist."""
    return _EPOCH.match(stamp) is not None


def git_names(text: bytes) -> tuple[bytes, bytes] | None:
    """The two names of a `diff --git` line; None when it can be cut in more than one way."""
    if text.startswith(b'"'):
        first = re.match(rb'"(?:[^"\\]|\\.)*"', text)
        if first is None or text[first.end() : first.end() + 1] != b" ":
            return None
        rest = text[first.end() + 1 :]
        return unquote(first[0]), unquote(rest) if rest.startswith(b'"') else rest
    if text.endswith(b'"'):
        name, _, quoted = text.partition(b' "')
        return name, unquote(b'"' + quoted)
    cuts = [at for at in range(len(text)) if text[at : at + 1] == b" "]
    equal = [at for at in cuts if text[:at].partition(b"/")[2] == text[at + 1 :].partition(b"/")[2] != b""]
    same = equal or [at for at in cuts if text[:at] == text[at + 1 :]] or (cuts if len(cuts) == 1 else [])
    return (text[: same[0]], text[same[0] + 1 :]) if len(same) == 1 else None
