"""The verb `sync push`: the host reads a directory or archive as entries, the agent puts them in place.

The agent stages everything before it moves the first name, so what fails on either side leaves the workspace as it was.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pyro_mcp.engine.session import Session
from pyro_mcp.errors import InvalidArgument
from pyro_mcp.model.count import count_of
from pyro_mcp.model.sync import SyncResult, WorkspaceSync
from pyro_mcp.operations.call import Call
from pyro_mcp.protocol.entries import Entry, EntryError, Piece
from pyro_mcp.system.atomic import disk_errors
from pyro_mcp.trees.flow import encoded
from pyro_mcp.trees.seed import Source, open_source

SKIPPED_SHOWN = 100
_TELL_EVERY = 500


@dataclass(frozen=True)
class _Unpacked:
    path: str


def push(call: Call[Any], session: Session, source_path: str, dest: str) -> SyncResult:
    """Import `source_path` below `dest`. Directories are merged into, files of the same name replaced.

    Raises `NotFound`, `InvalidArgument` or `PermissionDenied` for the source, `Conflict` where a directory would
    replace a file or the other way round, and `DiskFull`.
    """
    path = host_path("import", source_path)
    cancelled = threading.Event()
    forget = call.on_cancel(cancelled.set)
    with disk_errors(f"read {path}"):
        source = open_source(path, cancelled=cancelled)
    parcel = _Parcel(call, source, path)
    call.progress(f"reading {path}", None)
    try:
        said = session.agent.request(call, "tree_unpack", {"dest": dest}, _Unpacked, send=parcel.pieces())
    finally:
        forget()
    done = WorkspaceSync(
        mode=cast(Any, source.mode),
        source_path=str(path),
        destination=said.path,
        entry_count=parcel.entries,
        bytes_written=parcel.bytes,
        skipped_count=len(source.skipped),
        skipped=source.skipped[:SKIPPED_SHOWN],
    )
    session.note(
        "sync_push",
        {"source_path": str(path), "destination": said.path, "entry_count": done.entry_count, "bytes": parcel.bytes},
    )
    return SyncResult(**session.stamp, workspace_sync=done)


def host_path(verb: str, text: str) -> Path:
    """A path of this host; clients make theirs absolute, since the node has another working directory."""
    path = Path(text)
    if not path.is_absolute():
        raise InvalidArgument(f"cannot {verb} {text[:300]!a}: it is not absolute", hint="Give the whole path.")
    return path


class _Parcel:
    """A source as the bytes that travel, and how much it was."""

    def __init__(self, call: Call[Any], source: Source, path: Path) -> None:
        self.entries = 0
        self.bytes = 0
        self._call = call
        self._source = source
        self._path = path

    def pieces(self) -> Iterator[bytes]:
        """Raises what the source raises."""
        try:
            with disk_errors(f"read {self._path}"):
                yield from encoded(self._counted())
        except EntryError as error:
            raise InvalidArgument(f"cannot import {self._path}: {error}") from None

    def _counted(self) -> Iterator[Entry | Piece]:
        for item in self._source:
            if isinstance(item, Entry):
                self._count(item)
            yield item

    def _count(self, entry: Entry) -> None:
        self.entries += 1
        self.bytes += entry.size
        if self.entries % _TELL_EVERY == 0:
            self._call.progress(
                f"sending {count_of(self.entries, 'entry', 'entries', grouped=True)}, {self.bytes / 1e6:,.0f} MB", None
            )
