"""The body of `export`: the agent packs, the host unpacks beside the output and renames, and nothing is overwritten."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pyro_mcp.errors import InvalidArgument, ProtocolError
from pyro_mcp.model.export import ExportResult
from pyro_mcp.model.sync import Skipped
from pyro_mcp.operations.call import Call
from pyro_mcp.protocol.entries import Decoder, Entry, Piece
from pyro_mcp.trees.destination import export_tree, refuse_existing
from pyro_mcp.workspaces.content.asking import Conversation, Place, checked, converse
from pyro_mcp.workspaces.content.packed import Packed
from pyro_mcp.workspaces.content.syncing import SKIPPED_SHOWN, host_path
from pyro_mcp.workspaces.redact import Masks
from pyro_mcp.workspaces.scrub import scrub_tree


@dataclass(frozen=True)
class _Head:
    path: str
    artifact_type: Literal["file", "directory"]


def export(call: Call[Any], place: Place, path: str, output: str) -> ExportResult:
    """Copy `path` to the new host path `output`, whole or not at all.

    Raises `Conflict` when `output` exists, `NotFound`, `DiskFull`, `PermissionDenied`, and `ProtocolError` or
    `InvalidArgument` for what a hostile guest sends.
    """
    target = host_path("export to", output)
    refuse_existing(target)
    cancelled = threading.Event()
    forget = call.on_cancel(cancelled.set)
    incoming = _Incoming(converse(call, place.machine, "tree_pack", {"path": path}), place.masks)
    masked: list[str] = []
    try:
        head = incoming.head()
        report = export_tree(
            incoming.items(),
            target,
            kind=head.artifact_type,
            progress=call.progress,
            cancelled=cancelled,
            announce=place.announce,
            treat=lambda built: masked.extend(scrub_tree(place.masks, built)),
        )
    finally:
        incoming.close()
        forget()
    skipped = [Skipped(path=one.path, reason=one.reason) for one in report.skipped]
    skipped += incoming.packed.left_out
    result = ExportResult(
        **place.stamp,
        workspace_path=head.path,
        output_path=report.output_path,
        artifact_type=report.artifact_type,
        entry_count=report.entry_count,
        bytes_written=report.bytes_written,
        can_run=report.runnable,
        masked_count=len(masked),
        masked=[target.name] if masked and head.artifact_type == "file" else masked[:SKIPPED_SHOWN],
        skipped_count=len(report.skipped) + incoming.packed.left_out_count,
        skipped=skipped[:SKIPPED_SHOWN],
    )
    detail = {"path": head.path, "output_path": report.output_path, "entry_count": report.entry_count}
    place.note("export", {**detail, "bytes": report.bytes_written})
    return result


class _Incoming:
    """What the agent sends of a packed tree: its head, then its entries, then what it left out."""

    def __init__(self, conversation: Conversation, masks: Masks) -> None:
        self.packed = Packed()
        self._masks = masks
        self._conversation = conversation

    def head(self) -> _Head:
        try:
            first = next(self._conversation)
        except StopIteration:
            raise ProtocolError("cannot export: the agent sent nothing") from None
        return checked("tree_pack", first, _Head)

    def items(self) -> Iterator[Entry | Piece]:
        """Raises `EntryError` for a sequence that breaks the rules."""
        decoder = Decoder()
        while True:
            try:
                message = next(self._conversation)
            except StopIteration as done:
                self.packed = checked("tree_pack", done.value, Packed)
                decoder.close()
                return
            if isinstance(message, bytes):
                for item in decoder.feed(message):
                    if isinstance(item, Entry):
                        self._require_open_names(item)
                    yield item

    def _require_open_names(self, entry: Entry) -> None:
        """A name cannot be overwritten as content can."""
        if any(self._masks.found(os.fsencode(text)) for text in (entry.path, entry.target)):
            raise InvalidArgument(
                f"cannot export {entry.path}: its name or the link in it holds a secret",
                hint="Rename or remove it in the workspace, or export the rest apart",
            )

    def close(self) -> None:
        self._conversation.close()
