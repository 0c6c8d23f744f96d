"""Two states of files become a unified diff that `git apply` accepts and models read."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from pyro_mcp.model.diff import DiffSummary
from pyro_mcp.trees.names import quote
from pyro_mcp.trees.patch_text import split_lines

CONTEXT = 3
MAX_EXACT_WORK = 4_000_000
MAX_MATCH_WORK = 400_000_000
"""Lines times lines: up to the first the diff is the shortest that difflib finds, up to the second it looks at rare
lines only, beyond it the changed stretch is replaced as a whole."""

Kind = Literal["file", "symlink", "directory"]
Status = Literal["added", "modified", "deleted", "type_changed"]


@dataclass(frozen=True)
class Version:
    """One side of a change. `content` is a file's bytes or a link's target; None when it was not fetched."""

    kind: Kind
    mode: int = 0o644
    content: bytes | None = None


@dataclass(frozen=True)
class FileDiff:
    """How one path changed. `text_patch` is None where text cannot say it; `reason` then says why."""

    path: str
    status: Status
    artifact_type: Kind
    text_patch: str | None
    reason: str | None = None
    added_lines: int = 0
    deleted_lines: int = 0
    file_count: int = 0


def diff_file(path: str, old: Version | None, new: Version | None) -> FileDiff:
    """The change of `path` from `old` to `new`; None is absent. At least one must be there."""
    present = new or old
    assert present is not None
    status: Status = "modified"
    if old is None or new is None:
        status = "added" if old is None else "deleted"
    elif old.kind != new.kind:
        status = "type_changed"
    reason = _silence(old, new)
    if reason is not None:
        return FileDiff(path, status, present.kind, None, reason)
    added = deleted = 0
    pieces = []
    # Like git, a change of type is the end of one file and the beginning of another.
    for before, after in [(old, None), (None, new)] if status == "type_changed" else [(old, new)]:
        section = _Section(path, _textual(before), _textual(after))
        pieces.append(section.text())
        added, deleted = added + section.added, deleted + section.deleted
    return FileDiff(path, status, present.kind, "".join(pieces), None, added, deleted)


def totals(diffs: Iterable[FileDiff]) -> DiffSummary:
    """What the page's summary line says."""
    found = list(diffs)
    count = {status: sum(diff.status == status for diff in found) for status in Status.__args__}  # type: ignore[attr-defined]
    text = sum(diff.text_patch is not None for diff in found)
    return DiffSummary(total=len(found), **count, text_patched=text, non_text=len(found) - text)


def joined(diffs: Iterable[FileDiff]) -> str:
    """One patch of all text patches."""
    return "".join(diff.text_patch for diff in diffs if diff.text_patch)


def is_text(content: bytes) -> bool:
    """Whether `content` can stand in a patch that travels as JSON: UTF-8 without NUL."""
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return b"\0" not in content


def _silence(old: Version | None, new: Version | None) -> str | None:
    """Why a text patch cannot show this change; None when it can."""
    versions = [version for version in (old, new) if version is not None]
    if all(version.kind == "directory" for version in versions):
        return "directory"
    for version in versions:
        if version.kind != "directory" and version.content is None:
            return "too large"
        if version.content is not None and not is_text(version.content):
            return "binary"
        if version.kind == "symlink" and (version.content or b"").endswith(b"\n"):
            # Whoever reads the patch would take it for the patch's own line end.
            return "binary"
    if old and new and old.content == new.content and old.kind == new.kind and _git_mode(old) == _git_mode(new):
        return "permissions"
    return None


def _textual(version: Version | None) -> Version | None:
    return None if version is None or version.kind == "directory" else version


def _git_mode(version: Version) -> str:
    if version.kind == "symlink":
        return "120000"
    return "100755" if version.mode & 0o100 else "100644"


class _Section:
    """One `diff --git` section."""

    def __init__(self, path: str, old: Version | None, new: Version | None) -> None:
        self.added = 0
        self.deleted = 0
        self._path = path
        self._old = old
        self._new = new

    def text(self) -> str:
        if self._old is None and self._new is None:
            return ""
        hunks = "".join(self._hunks())
        names = f"{quote(f'a/{self._path}')} {quote(f'b/{self._path}')}"
        return f"diff --git {names}\n{self._modes()}{self._names() if hunks else ''}{hunks}"

    def _modes(self) -> str:
        if self._old is None or self._new is None:
            version, verb = (self._new, "new") if self._old is None else (self._old, "deleted")
            assert version is not None
            return f"{verb} file mode {_git_mode(version)}\n"
        old, new = _git_mode(self._old), _git_mode(self._new)
        return f"old mode {old}\nnew mode {new}\n" if old != new else ""

    def _names(self) -> str:
        lines = []
        for mark, letter, version in (("---", "a", self._old), ("+++", "b", self._new)):
            name = quote(f"{letter}/{self._path}") if version is not None else "/dev/null"
            # Without a tab, a reader takes what follows a space for a time stamp.
            lines.append(f"{mark} {name}{chr(9) if ' ' in name and name[0] != chr(34) else ''}\n")
        return "".join(lines)

    def _hunks(self) -> Iterator[str]:
        old = split_lines(self._old.content or b"") if self._old else []
        new = split_lines(self._new.content or b"") if self._new else []
        for group in _grouped(_opcodes(old, new)):
            first, last = group[0], group[-1]
            yield f"@@ -{_range(first[1], last[2])} +{_range(first[3], last[4])} @@\n"
            for tag, old_from, old_to, new_from, new_to in group:
                if tag == "equal":
                    yield from (_line(" ", line) for line in old[old_from:old_to])
                    continue
                self.deleted += old_to - old_from
                self.added += new_to - new_from
                yield from (_line("-", line) for line in old[old_from:old_to])
                yield from (_line("+", line) for line in new[new_from:new_to])


Opcode = tuple[str, int, int, int, int]


def _opcodes(old: list[bytes], new: list[bytes]) -> list[Opcode]:
    """Steps from `old` to `new`; equal ends are found first, which makes the usual edit of a large file cheap."""
    head = _common(old, new)
    tail = _common(old[head:][::-1], new[head:][::-1])
    inner_old, inner_new = old[head : len(old) - tail], new[head : len(new) - tail]
    work = len(inner_old) * len(inner_new)
    if work > MAX_MATCH_WORK:
        inner: list[Opcode] = [("replace", 0, len(inner_old), 0, len(inner_new))]
    else:
        matcher = difflib.SequenceMatcher(None, inner_old, inner_new, autojunk=work > MAX_EXACT_WORK)
        inner = [(tag, a, b, c, d) for tag, a, b, c, d in matcher.get_opcodes()]
    steps: list[Opcode] = [("equal", 0, head, 0, head)] if head else []
    steps += [(tag, a + head, b + head, c + head, d + head) for tag, a, b, c, d in inner]
    steps += [("equal", len(old) - tail, len(old), len(new) - tail, len(new))] if tail else []
    return steps


def _common(old: list[bytes], new: list[bytes]) -> int:
    return next((at for at, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))


def _grouped(steps: list[Opcode]) -> Iterator[list[Opcode]]:
    """The steps in groups, each change with up to `CONTEXT` equal lines around it."""
    group: list[Opcode] = []
    for at, (tag, a, b, c, d) in enumerate(steps):
        if tag != "equal":
            group.append((tag, a, b, c, d))
            continue
        last = at == len(steps) - 1
        if group and (last or b - a > 2 * CONTEXT):
            yield [*group, (tag, a, min(b, a + CONTEXT), c, min(d, c + CONTEXT))]
            group = []
        if not last and (not group):
            a, c = max(a, b - CONTEXT), max(c, d - CONTEXT)
        if not last:
            group.append((tag, a, b, c, d))
    if any(step[0] != "equal" for step in group):
        yield group


def _range(begin: int, end: int) -> str:
    """Line numbers as hunk headers give them: an empty range names the line before it."""
    length = end - begin
    if length == 1:
        return str(begin + 1)
    return f"{begin + 1 if length else begin},{length}"


def _line(sign: str, line: bytes) -> str:
    text = line.decode("utf-8")
    return f"{sign}{text}" if line.endswith(b"\n") else f"{sign}{text}\n\\ No newline at end of file\n"
