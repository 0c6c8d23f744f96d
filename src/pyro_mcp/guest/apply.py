"""apply: several changes to files as one: all of them happen, or none.

New content is staged first. Then each change is made by a rename or a chmod that can be taken back, expectations being
checked right before; the first that fails takes back those before it. No link is followed anywhere.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable
from typing import Any

from pyro_mcp.guest import params as read
from pyro_mcp.guest.errors import AgentError, invalid
from pyro_mcp.guest.files import adopt_mode, digesting, expectation, optional_mode, require_file, verify
from pyro_mcp.guest.flow import Flow
from pyro_mcp.guest.paths import Place, Tree, absolute, failure, relative, show
from pyro_mcp.guest.stage import Stage
from pyro_mcp.protocol.channel import Stream
from pyro_mcp.protocol.digest import sha256
from pyro_mcp.protocol.entries import MAX_SIZE

MAX_OPERATIONS = 10_000
_FIELDS = {"op", "path", "to", "mode", "size", "expected_sha256"}


class Operation:
    """One checked change."""

    def __init__(self, value: Any, index: int) -> None:
        name = f"operations[{index}]"
        if not isinstance(value, dict) or not value.keys() <= _FIELDS:
            raise invalid(f"{name} must be an object with {', '.join(sorted(_FIELDS))}")
        self.index = index
        self.op = value.get("op")
        self.parts = _path(f"{name}.path", value.get("path"))
        self.to = _path(f"{name}.to", value.get("to")) if self.op == "rename" else []
        self.mode = optional_mode(value)
        self.size = read.integer(value, "size", least=0, most=MAX_SIZE) if self.op == "write" else 0
        self.expected = expectation(value)
        self.digest: str | None = None
        if self.op not in ("write", "delete", "mode", "rename"):
            raise invalid(f"{name}.op must be write, delete, mode or rename")
        if self.op == "mode" and self.mode is None:
            raise invalid(f"{name}.mode is missing")

    @property
    def staged(self) -> bytes:
        return b"n%d" % self.index

    @property
    def backup(self) -> bytes:
        return b"o%d" % self.index


def _path(name: str, value: Any) -> list[bytes]:
    parts = relative(name, value)
    if not parts:
        raise invalid(f"{name} is the workspace itself")
    return parts


def tree_apply(tree: Tree, lock: threading.Lock, stream: Stream) -> dict[str, Any]:
    """operations[{op: write|delete|mode|rename, path, to?, mode?, size?, expected_sha256?}] ← the contents of all
    writes in order as DATA 0 → entries[{path, op, sha256?}]. `rename` needs a free `to`; parents are made, and those
    left empty removed. On failure nothing has changed, and the error names the operation."""
    values = stream.params.get("operations")
    if not isinstance(values, list) or not 1 <= len(values) <= MAX_OPERATIONS:
        raise invalid(f"operations must be a list of 1 to {MAX_OPERATIONS}")
    operations = [Operation(value, index) for index, value in enumerate(values)]
    flow = Flow(stream)
    try:
        with Stage(tree) as stage:
            _receive(operations, stage, flow)
            with lock:
                change = _Change(tree, stage)
                change.run(operations, flow)
                change.tidy(operations)
                stage.flush()
        return {"entries": [_entry(operation) for operation in operations]}
    except OSError as error:
        raise failure("apply changes in", absolute([]), error) from None
    finally:
        flow.close()


def _entry(operation: Operation) -> dict[str, Any]:
    entry = {"path": os.fsdecode(absolute(operation.parts)), "op": operation.op}
    if operation.digest:
        entry["sha256"] = operation.digest
    return entry


def _receive(operations: list[Operation], stage: Stage, flow: Flow) -> None:
    for operation in operations:
        if operation.op == "write":
            digest = sha256()
            stage.write(operation.staged, digesting(flow.take(operation.size), digest))
            operation.digest = digest.hexdigest()
    flow.require_end()


class _Change:
    """Operations under way, and how to take them back."""

    def __init__(self, tree: Tree, stage: Stage) -> None:
        self._tree = tree
        self._stage = stage
        self._undo: list[Callable[[], None]] = []

    def run(self, operations: list[Operation], flow: Flow) -> None:
        """Do all or nothing."""
        try:
            for operation in operations:
                flow.check()
                self._run(operation)
        except BaseException:
            self._take_back()
            raise

    def _run(self, operation: Operation) -> None:
        try:
            self._make_parents(operation)
            with self._tree.find(operation.parts, links=False) as place:
                if operation.op != "write" and not place.exists:
                    raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
                if place.exists and not (operation.op in ("delete", "rename") and _is_link(place)):
                    require_file(place, str(operation.op))
                verify(place, operation.expected)
                getattr(self, f"_{operation.op}")(operation, place)
        except OSError as error:
            raise failure(str(operation.op), absolute(operation.parts), error) from None

    def _make_parents(self, operation: Operation) -> None:
        wanted = {"write": operation.parts, "rename": operation.to}.get(str(operation.op), [])
        for length in range(1, len(wanted)):
            with self._tree.find(wanted[:length], links=False) as place:
                if not place.exists:
                    os.mkdir(place.name, 0o755, dir_fd=place.parent)
                    self._undo.append(self._remover(wanted[:length]))

    def _remover(self, parts: list[bytes]) -> Callable[[], None]:
        def undo() -> None:
            with self._tree.find(parts, links=False) as place:
                os.rmdir(place.name, dir_fd=place.parent)

        return undo

    def _write(self, operation: Operation, place: Place) -> None:
        adopt_mode(self._stage, operation.staged, place, operation.mode)
        if place.exists:
            self._keep(operation, place)
        os.rename(operation.staged, place.name, src_dir_fd=self._stage.fd, dst_dir_fd=place.parent)
        if not place.exists:
            self._undo.append(self._mover(operation.parts, operation.staged))

    def _keep(self, operation: Operation, place: Place) -> None:
        """Hold the old file by a second name, so that its own is never missing."""
        os.link(place.name, operation.backup, src_dir_fd=place.parent, dst_dir_fd=self._stage.fd, follow_symlinks=False)
        self._undo.append(self._restorer(operation.parts, operation.backup))

    def _delete(self, operation: Operation, place: Place) -> None:
        os.rename(place.name, operation.backup, src_dir_fd=place.parent, dst_dir_fd=self._stage.fd)
        self._undo.append(self._restorer(operation.parts, operation.backup))

    def _mode(self, operation: Operation, place: Place) -> None:
        assert operation.mode is not None
        self._chmod(operation.parts, place, operation.mode)

    def _chmod(self, parts: list[bytes], place: Place, mode: int) -> None:
        before = stat.S_IMODE(place.stat().st_mode)
        os.chmod(f"/proc/self/fd/{place.fd}", mode)

        def undo() -> None:
            with self._tree.existing(parts, links=False) as again:
                os.chmod(f"/proc/self/fd/{again.fd}", before)

        self._undo.append(undo)

    def _rename(self, operation: Operation, place: Place) -> None:
        with self._tree.find(operation.to, links=False) as target:
            if target.exists:
                raise AgentError("conflict", f"cannot rename to {show(target.path)}: it exists already")
            os.rename(place.name, target.name, src_dir_fd=place.parent, dst_dir_fd=target.parent)
        self._undo.append(self._back(operation))
        if operation.mode is not None:
            with self._tree.existing(operation.to, links=False) as moved:
                if moved.is_file():
                    self._chmod(operation.to, moved, operation.mode)

    def _back(self, operation: Operation) -> Callable[[], None]:
        def undo() -> None:
            with (
                self._tree.existing(operation.to, links=False) as moved,
                self._tree.find(operation.parts, links=False) as old,
            ):
                os.rename(moved.name, old.name, src_dir_fd=moved.parent, dst_dir_fd=old.parent)

        return undo

    def _restorer(self, parts: list[bytes], backup: bytes) -> Callable[[], None]:
        def undo() -> None:
            with self._tree.find(parts, links=False) as place:
                os.rename(backup, place.name, src_dir_fd=self._stage.fd, dst_dir_fd=place.parent)

        return undo

    def _mover(self, parts: list[bytes], name: bytes) -> Callable[[], None]:
        def undo() -> None:
            with self._tree.find(parts, links=False) as place:
                os.rename(place.name, name, src_dir_fd=place.parent, dst_dir_fd=self._stage.fd)

        return undo

    def _take_back(self) -> None:
        lost = 0
        for undo in reversed(self._undo):
            try:
                undo()
            except (OSError, AgentError):
                lost += 1
        if lost:
            raise AgentError("internal", f"cannot apply the changes, and cannot take back {lost} of them")

    def tidy(self, operations: list[Operation]) -> None:
        """Remove directories that a deletion or a move has emptied, as git does."""
        for operation in operations:
            if operation.op in ("delete", "rename"):
                self._tidy(operation.parts[:-1])

    def _tidy(self, parts: list[bytes]) -> None:
        while parts:
            try:
                with self._tree.existing(parts, links=False) as place:
                    os.rmdir(place.name, dir_fd=place.parent)
            except (OSError, AgentError):
                return
            parts = parts[:-1]


def _is_link(place: Place) -> bool:
    return stat.S_ISLNK(place.stat().st_mode)
