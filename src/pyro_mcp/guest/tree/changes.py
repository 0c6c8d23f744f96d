"""changes: what differs between the workspace and its baseline, with both contents of what is text.

In a guest the overlay's upper directory names all that may differ, so the cost follows the changes; a directory that
was renamed is compared as a whole. On a host the two trees are.

What git keeps in `.git` is one change with a number, because no patch can hold it. What is new and a .gitignore leaves
out is counted: what was there before counts as any other, as git's own rule for files that it tracks has it.
"""

from __future__ import annotations

import os
import stat
from contextlib import nullcontext
from typing import Any

from pyro_mcp.guest import params as read
from pyro_mcp.guest.errors import AgentError, invalid
from pyro_mcp.guest.flow import Flow
from pyro_mcp.guest.tree.files import GIT, SNIFF
from pyro_mcp.guest.tree.ignore import MAX_PATTERN, IgnoreRules, Patterns
from pyro_mcp.guest.tree.layers import Layers, Upper, join
from pyro_mcp.guest.tree.pack import Notes
from pyro_mcp.guest.tree.paths import WORKSPACE, artifact_type, failure, relative, reopen, show
from pyro_mcp.guest.tree.reading import same_content
from pyro_mcp.guest.tree.stage import listing
from pyro_mcp.protocol.channel import Stream
from pyro_mcp.protocol.entries import STAGE_PREFIX, TOO_DEEP, fits

PIECE = 256 * 1024
MAX_LISTED = 256
"""Paths and patterns that a request may name."""
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


def changes(layers: Layers, stream: Stream) -> dict[str, Any]:
    """text_limit (per file), total_limit (all text), limit (events), paths?, exclude?, ignored? → for each change an
    EVENT {path, status, artifact_type, old, new, text: null | [old bytes, new bytes]} and, after one with text, the old
    and then the new content as DATA 1. Result: total, added, modified, deleted, type_changed, truncated, ignored_count,
    skipped, skipped_count.

    `old` and `new` are null or {artifact_type, mode, size_bytes, target}. Directories count when they are empty, or
    when they became or ceased to be one. The event for `.git` has file_count and no text. `paths` are all that is
    looked at, `exclude` are patterns as in a .gitignore; with `ignored` those files are no longer left out.
    """
    p = {"text_limit": 1 << 20, "total_limit": 32 << 20, "limit": 100_000, **stream.params}
    flow = Flow(stream)
    differ = _Differ(
        layers,
        flow,
        wanted=[b"/".join(relative("compare", path)) for path in _texts(p, "paths")],
        exclude=Patterns([read.to_bytes("exclude", one, limit=MAX_PATTERN) for one in _texts(p, "exclude")]),
        ignored=read.flag(p, "ignored"),
        text_limit=read.integer(p, "text_limit", min_=0, max_=16 << 20),
        total_limit=read.integer(p, "total_limit", min_=0, max_=1 << 30),
        limit=read.integer(p, "limit", min_=1, max_=1_000_000),
    )
    try:
        return differ.run()
    except OSError as error:
        raise failure("compare", WORKSPACE, error) from None
    finally:
        flow.close()


def _texts(params: dict[str, Any], name: str) -> list[Any]:
    value = params.get(name) or []
    if not isinstance(value, list) or len(value) > MAX_LISTED:
        raise invalid(f"{name} must be a list of at most {MAX_LISTED} texts")
    return value


class _Side:
    """One thing on one side: an O_PATH descriptor and its status."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.status = os.fstat(fd)
        self.kind = artifact_type(self.status.st_mode)

    def fields(self) -> dict[str, Any]:
        target = os.fsdecode(os.readlink(b"", dir_fd=self.fd)) if self.kind == "symlink" else None
        size = self.status.st_size if self.kind == "file" else 0
        mode = stat.S_IMODE(self.status.st_mode)
        return {"artifact_type": self.kind, "mode": mode, "size_bytes": size, "target": target}


class _Differ:
    def __init__(
        self,
        layers: Layers,
        flow: Flow,
        *,
        wanted: list[bytes],
        exclude: Patterns,
        ignored: bool,
        text_limit: int,
        total_limit: int,
        limit: int,
    ) -> None:
        self._layers = layers
        self._flow = flow
        self._wanted = [] if b"" in wanted else wanted
        self._exclude = exclude
        self._show_ignored = ignored
        self._ignored = self._left_aside = 0
        self._counting = False
        """Changes are counted and not sent."""
        self._text_limit = text_limit
        self._text_left = total_limit
        self._limit = limit
        self._counts = dict.fromkeys(("added", "modified", "deleted", "type_changed"), 0)
        self._skipped = Notes()

    def run(self) -> dict[str, Any]:
        new = self._layers.new()
        try:
            old = self._layers.old()
            try:
                self._require(new, old)
                upper = self._layers.upper()
                with upper or nullcontext():
                    self._directory(b"", new, old, IgnoreRules(new), upper)
            finally:
                _close(old)
        finally:
            os.close(new)
        total = sum(self._counts.values())
        return {
            "total": total,
            **self._counts,
            "truncated": total > self._limit,
            "ignored_count": self._ignored,
            "skipped": self._skipped.first,
            "skipped_count": self._skipped.count,
        }

    def _require(self, new: int, old: int | None) -> None:
        """Raise for a path that stands on neither side: who names it means another."""
        for path in self._wanted:
            if not (_stands(new, path) or (old is not None and _stands(old, path))):
                why = "it is neither in the workspace nor in its baseline"
                hint = "List the directory that it should be in. Patterns are for what is to be left out."
                raise AgentError("not_found", f"cannot compare {show(path)}: {why}", hint)

    def _looked_at(self, path: bytes) -> bool:
        """Whether `path` is wanted, is in what is wanted, or leads to it."""
        return not self._wanted or any(
            path == one or path.startswith(one + b"/") or one.startswith(path + b"/") for one in self._wanted
        )

    def _directory(
        self, path: bytes, new: int | None, old: int | None, rules: IgnoreRules, upper: Upper | None = None
    ) -> None:
        """Compare two directories. With `upper`, what that does not name is as it was."""
        for name in upper.names() if upper else self._both(path, new, old):
            self._flow.check()
            below = join(path, name)
            if not path and name.startswith(STAGE_PREFIX):
                continue
            if not self._looked_at(below):
                self._left_aside += 1
                continue
            if not fits(below):
                self._skipped.add(below, TOO_DEEP)
                continue
            mine, theirs = _look(new, name), _look(old, name)
            try:
                if self._excluded(below, mine, theirs):
                    self._left_aside += 1
                    continue
                if name.lower() == GIT and not self._counting:
                    self._internals(below, mine, theirs, rules, upper)
                else:
                    self._pair(below, mine, theirs, rules, upper)
            finally:
                for side in (mine, theirs):
                    _close(side.fd if side else None)

    def _excluded(self, path: bytes, *sides: _Side | None) -> bool:
        directory = any(side.kind == "directory" for side in sides if side)
        return bool(self._exclude) and self._exclude.verdict(path, directory=directory) is True

    def _internals(
        self, path: bytes, new: _Side | None, old: _Side | None, rules: IgnoreRules, upper: Upper | None
    ) -> None:
        """What git keeps for itself is one change, however many there are in it."""
        counts, self._counts = self._counts, dict.fromkeys(self._counts, 0)
        self._counting = True
        try:
            self._pair(path, new, old, rules, upper)
        finally:
            self._counting = False
            counts, self._counts = self._counts, counts
        if total := sum(counts.values()):
            kinds = {"added": not old, "deleted": not new, "type_changed": new and old and new.kind != old.kind}
            status = next((kind for kind, is_it in kinds.items() if is_it), "modified")
            self._emit(status, path, old, new, file_count=total)

    def _accounted(self) -> int:
        """How many things were counted, or left out because somebody asked for it."""
        return sum(self._counts.values()) + self._ignored + self._left_aside

    def _both(self, path: bytes, *sides: int | None) -> list[bytes]:
        return sorted({name for fd in sides if fd is not None for name in self._names(path, fd)})

    def _names(self, path: bytes, fd: int) -> list[bytes]:
        try:
            return listing(fd)
        except PermissionError:
            self._skipped.add(path or b".", "cannot be listed")
            return []

    def _pair(self, path: bytes, new: _Side | None, old: _Side | None, rules: IgnoreRules, upper: Upper | None) -> None:
        if new is not None and new.kind == "other":
            self._skipped.add(path, "no file, directory or link")
            new = None
        if new is None:
            if old is not None:
                self._deleted(path, old, rules)
        elif old is None:
            self._added(path, new, rules)
        elif new.kind != old.kind:
            self._type_changed(path, new, old, rules)
        elif new.kind == "directory":
            self._inside(path, new.fd, old.fd, rules, upper)
        elif self._differs(new, old):
            self._emit("modified", path, old, new)

    def _inside(self, path: bytes, new: int, old: int, rules: IgnoreRules, upper: Upper | None) -> None:
        name = path.rpartition(b"/")[2]
        rules = rules.enter(name, new)
        if upper is None:
            self._directory(path, new, old, rules)
            return
        with upper.enter(name) as inside:
            self._directory(path, new, old, rules, inside if inside.lower == path else None)

    def _added(self, path: bytes, new: _Side, rules: IgnoreRules) -> None:
        name = path.rpartition(b"/")[2]
        if not (self._show_ignored or self._counting) and rules.ignores(name, directory=new.kind == "directory"):
            self._ignored += self._files_in(path, new)
            return
        if new.kind != "directory":
            self._emit("added", path, None, new)
            return
        before = self._accounted()
        self._directory(path, new.fd, None, rules.enter(name, new.fd))
        # What holds nothing but what no tree can hold is as good as empty.
        if self._accounted() == before:
            self._emit("added", path, None, new)

    def _files_in(self, path: bytes, side: _Side) -> int:
        """How many files `side` is: one, or those in the directory that are looked at."""
        if side.kind != "directory":
            return 1
        count = 0
        for name in self._names(path, side.fd):
            self._flow.check()
            below = join(path, name)
            inner = _look(side.fd, name) if self._looked_at(below) and fits(below) else None
            if inner is not None:
                try:
                    count += 0 if self._excluded(below, inner) else self._files_in(below, inner)
                finally:
                    os.close(inner.fd)
        return count

    def _deleted(self, path: bytes, old: _Side, rules: IgnoreRules) -> None:
        if old.kind == "directory" and self._names(path, old.fd):
            self._directory(path, None, old.fd, rules)
        elif old.kind != "other":
            self._emit("deleted", path, old, None)

    def _type_changed(self, path: bytes, new: _Side, old: _Side, rules: IgnoreRules) -> None:
        self._emit("type_changed", path, old, new)
        if old.kind == "directory":
            self._directory(path, None, old.fd, rules)
        if new.kind == "directory":
            self._directory(path, new.fd, None, rules.enter(path.rpartition(b"/")[2], new.fd))

    def _differs(self, new: _Side, old: _Side) -> bool:
        """Whether two of a kind differ in what a patch would show: content, target, permission bits."""
        if new.kind == "symlink":
            return os.readlink(b"", dir_fd=new.fd) != os.readlink(b"", dir_fd=old.fd)
        if stat.S_IMODE(new.status.st_mode) != stat.S_IMODE(old.status.st_mode):
            return True
        if new.status.st_size != old.status.st_size:
            return True
        return not self._same_content(new.fd, old.fd)

    def _same_content(self, new: int, old: int) -> bool:
        try:
            one = reopen(new, os.O_RDONLY)
        except PermissionError:
            return False
        try:
            two = reopen(old, os.O_RDONLY)
            try:
                return same_content(one, two, self._flow.check)
            finally:
                os.close(two)
        finally:
            os.close(one)

    def _emit(
        self, status: str, path: bytes, old: _Side | None, new: _Side | None, file_count: int | None = None
    ) -> None:
        self._counts[status] += 1
        if self._counting or sum(self._counts.values()) > self._limit:
            return
        shown = new or old
        assert shown is not None
        contents = self._texts(old, new) if file_count is None else None
        self._flow.event(
            {
                "path": os.fsdecode(path),
                "status": status,
                "artifact_type": shown.kind,
                "old": old.fields() if old else None,
                "new": new.fields() if new else None,
                "text": [len(content) for content in contents] if contents is not None else None,
                "file_count": file_count,
            }
        )
        for content in contents or ():
            self._flow.send(content)

    def _texts(self, old: _Side | None, new: _Side | None) -> list[bytes] | None:
        """Old and new content if both are text and within the limits; what is missing or no file is empty."""
        files = [side if side and side.kind == "file" else None for side in (old, new)]
        if not any(files):
            return None
        sizes = [side.status.st_size for side in files if side]
        if max(sizes) > self._text_limit or sum(sizes) > self._text_left:
            return None
        contents = []
        for side in files:
            content = self._text(side) if side else b""
            if content is None:
                return None
            contents.append(content)
        self._text_left -= sum(map(len, contents))
        return contents

    def _text(self, side: _Side) -> bytes | None:
        """The content, None for binary or for a file that grew beyond the limit or cannot be read."""
        try:
            fd = reopen(side.fd, os.O_RDONLY)
        except PermissionError:
            return None
        try:
            pieces: list[bytes] = []
            size = 0
            while piece := os.read(fd, PIECE):
                size += len(piece)
                if size > self._text_limit or (not pieces and b"\0" in piece[:SNIFF]):
                    return None
                pieces.append(piece)
        finally:
            os.close(fd)
        content = b"".join(pieces)
        return None if b"\0" in content else content


def _look(parent: int | None, name: bytes) -> _Side | None:
    if parent is None:
        return None
    try:
        return _Side(os.open(name, _LOOK, dir_fd=parent))
    except (FileNotFoundError, NotADirectoryError):
        return None


def _stands(root: int, path: bytes) -> bool:
    """Whether there is something at `path`, no link on the way."""
    above, _, name = path.partition(b"/")
    side = _look(root, above)
    if side is None:
        return False
    try:
        return not name or (side.kind == "directory" and _stands(side.fd, name))
    finally:
        os.close(side.fd)


def _close(fd: int | None) -> None:
    if fd is not None:
        os.close(fd)
