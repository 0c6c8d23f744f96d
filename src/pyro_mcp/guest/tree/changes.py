"""changes: what differs between the workspace and its baseline, with both contents of what is text.

In a guest the overlay's upper directory names all that may differ, so the cost follows the changes; a directory that
was renamed is compared as a whole. On a host the two trees are.
"""

from __future__ import annotations

import os
import stat
from contextlib import nullcontext
from typing import Any

from pyro_mcp.guest import params as read
from pyro_mcp.guest.flow import Flow
from pyro_mcp.guest.tree.files import SNIFF
from pyro_mcp.guest.tree.layers import Layers, Upper, join
from pyro_mcp.guest.tree.pack import Notes
from pyro_mcp.guest.tree.paths import WORKSPACE, artifact_type, failure, reopen
from pyro_mcp.guest.tree.reading import same_content
from pyro_mcp.guest.tree.stage import listing
from pyro_mcp.protocol.channel import Stream
from pyro_mcp.protocol.entries import STAGE_PREFIX, TOO_DEEP, fits

PIECE = 256 * 1024
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


def changes(layers: Layers, stream: Stream) -> dict[str, Any]:
    """text_limit (per file), total_limit (all text), limit (events) → for each change an EVENT {path, status,
    artifact_type, old, new, text: null | [old bytes, new bytes]} and, after one with text, the old and then the new
    content as DATA 1. Result: total, added, modified, deleted, type_changed, truncated, skipped, skipped_count.

    `old` and `new` are null or {artifact_type, mode, size_bytes, target}. Directories count when they are empty, or
    when they became or ceased to be one.
    """
    p = {"text_limit": 1 << 20, "total_limit": 32 << 20, "limit": 100_000, **stream.params}
    flow = Flow(stream)
    differ = _Differ(
        layers,
        flow,
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
    def __init__(self, layers: Layers, flow: Flow, *, text_limit: int, total_limit: int, limit: int) -> None:
        self._layers = layers
        self._flow = flow
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
                upper = self._layers.upper()
                with upper or nullcontext():
                    self._directory(b"", new, old, upper)
            finally:
                _close(old)
        finally:
            os.close(new)
        total = sum(self._counts.values())
        return {
            "total": total,
            **self._counts,
            "truncated": total > self._limit,
            "skipped": self._skipped.first,
            "skipped_count": self._skipped.count,
        }

    def _directory(self, path: bytes, new: int, old: int | None, upper: Upper | None = None) -> None:
        """Compare two directories. With `upper`, what that does not name is as it was."""
        for name in upper.names() if upper else self._both(path, new, old):
            self._flow.check()
            below = join(path, name)
            if not path and name.startswith(STAGE_PREFIX):
                continue
            if not fits(below):
                self._skipped.add(below, TOO_DEEP)
                continue
            mine, theirs = _look(new, name), _look(old, name)
            try:
                self._pair(below, mine, theirs, upper)
            finally:
                for side in (mine, theirs):
                    _close(side.fd if side else None)

    def _both(self, path: bytes, new: int, old: int | None) -> list[bytes]:
        before = self._names(path, old) if old is not None else []
        return sorted({*self._names(path, new), *before})

    def _names(self, path: bytes, fd: int) -> list[bytes]:
        try:
            return listing(fd)
        except PermissionError:
            self._skipped.add(path or b".", "cannot be listed")
            return []

    def _pair(self, path: bytes, new: _Side | None, old: _Side | None, upper: Upper | None) -> None:
        if new is not None and new.kind == "other":
            self._skipped.add(path, "no file, directory or link")
            new = None
        if new is None:
            if old is not None:
                self._deleted(path, old)
        elif old is None:
            self._added(path, new)
        elif new.kind != old.kind:
            self._type_changed(path, new, old)
        elif new.kind == "directory":
            self._inside(path, new.fd, old.fd, upper)
        elif self._differs(new, old):
            self._emit("modified", path, old, new)

    def _inside(self, path: bytes, new: int, old: int, upper: Upper | None) -> None:
        if upper is None:
            self._directory(path, new, old)
            return
        with upper.enter(path.rpartition(b"/")[2]) as inside:
            self._directory(path, new, old, inside if inside.lower == path else None)

    def _added(self, path: bytes, new: _Side) -> None:
        if new.kind != "directory":
            self._emit("added", path, None, new)
            return
        before = sum(self._counts.values())
        self._directory(path, new.fd, None)
        if sum(self._counts.values()) == before:
            self._emit("added", path, None, new)

    def _deleted(self, path: bytes, old: _Side) -> None:
        if old.kind == "directory":
            names = self._names(path, old.fd)
            for name in names:
                below = path + b"/" + name
                inner = _look(old.fd, name)
                if inner is None or not fits(below):
                    self._skipped.add(below, "too deep or gone")
                    _close(inner.fd if inner else None)
                    continue
                try:
                    self._deleted(below, inner)
                finally:
                    os.close(inner.fd)
            if names:
                return
        if old.kind != "other":
            self._flow.check()
            self._emit("deleted", path, old, None)

    def _type_changed(self, path: bytes, new: _Side, old: _Side) -> None:
        self._emit("type_changed", path, old, new)
        if old.kind == "directory":
            for name in self._names(path, old.fd):
                inner = _look(old.fd, name)
                if inner is not None:
                    try:
                        self._deleted(path + b"/" + name, inner)
                    finally:
                        os.close(inner.fd)
        if new.kind == "directory":
            self._directory(path, new.fd, None)

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

    def _emit(self, status: str, path: bytes, old: _Side | None, new: _Side | None) -> None:
        self._counts[status] += 1
        if sum(self._counts.values()) > self._limit:
            return
        shown = new or old
        assert shown is not None
        contents = self._texts(old, new)
        self._flow.event(
            {
                "path": os.fsdecode(path),
                "status": status,
                "artifact_type": shown.kind,
                "old": old.fields() if old else None,
                "new": new.fields() if new else None,
                "text": [len(content) for content in contents] if contents is not None else None,
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


def _close(fd: int | None) -> None:
    if fd is not None:
        os.close(fd)
