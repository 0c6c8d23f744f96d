"""The verb `export`: the agent packs, the host unpacks beside the output and renames, and nothing is overwritten.

What was seeded and not changed since comes from the seed's image here, so a guest sends what it has changed.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pyro_mcp.engine.agent import Messages, checked
from pyro_mcp.engine.files.packed import Packed
from pyro_mcp.engine.files.sync import SKIPPED_SHOWN, host_path
from pyro_mcp.engine.secrets.redact import Masks
from pyro_mcp.engine.secrets.scrub import scrub_tree
from pyro_mcp.engine.session import Session
from pyro_mcp.errors import InvalidArgument, ProtocolError, Unsupported
from pyro_mcp.model.export import ExportResult
from pyro_mcp.model.sync import Skipped
from pyro_mcp.operations.call import Call
from pyro_mcp.protocol.channel import Data, Event
from pyro_mcp.protocol.entries import Entry, EntryDecoder, Piece
from pyro_mcp.system.atomic import disk_errors
from pyro_mcp.trees.destination import export_tree, refuse_existing
from pyro_mcp.trees.ext4_reader import SeedImage
from pyro_mcp.trees.layers import merged

PACKED = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".tar.zst", ".zip")


@dataclass(frozen=True)
class _Head:
    path: str
    artifact_type: Literal["file", "directory"]
    lower: str | None = None


def export(call: Call[Any], session: Session, path: str, output: str) -> ExportResult:
    """Copy `path` to the new host path `output`, whole or not at all.

    Raises `Conflict` when `output` exists, `NotFound`, `DiskFull`, `PermissionDenied`, and `ProtocolError` or
    `InvalidArgument` for what a hostile guest sends.
    """
    target = host_path("export to", output)
    refuse_existing(target)
    cancelled = threading.Event()
    forget = call.on_cancel(cancelled.set)
    try:
        with contextlib.ExitStack() as held:
            if session.seed is not None:
                with disk_errors("read the seed"):
                    seed = held.enter_context(SeedImage(session.seed))
                with contextlib.suppress(Unsupported):  # The layers do not show all changes: pack the whole tree.
                    return _export(call, session, path, target, cancelled, seed)
            return _export(call, session, path, target, cancelled, None)
    finally:
        forget()


def _require_fitting_name(head: _Head, target: Path) -> None:
    """A directory does not become an archive by its name, and somebody would look for one there."""
    suffix = next((one for one in PACKED if target.name.lower().endswith(one)), None)
    if suffix and head.artifact_type == "directory" and not head.path.lower().endswith(suffix):
        raise InvalidArgument(
            f"cannot export {head.path} to {target}: it is a directory, and {suffix} an archive's name",
            hint="Leave the suffix out; or pack it with a command in the workspace, and export that file",
        )


def _export(
    call: Call[Any], session: Session, path: str, target: Path, cancelled: threading.Event, seed: SeedImage | None
) -> ExportResult:
    """With a `seed` only what changed is asked of the guest; raises `Unsupported` where that is not enough."""
    verb = "tree_pack" if seed is None else "overlay_pack"
    incoming = _Incoming(verb, session.agent.stream(call, verb, {"path": path}), session.masks)
    masked: list[str] = []
    try:
        head = incoming.head()
        _require_fitting_name(head, target)
        report = export_tree(
            incoming.items(head, seed),
            target,
            kind=head.artifact_type,
            progress=call.progress,
            cancelled=cancelled,
            track=session.track,
            treat=lambda built: masked.extend(scrub_tree(session.masks, built)),
        )
    finally:
        incoming.close()
    left_out = [*report.skipped, *incoming.too_deep]
    skipped = left_out + incoming.packed.left_out
    result = ExportResult(
        **session.stamp,
        workspace_path=head.path,
        output_path=report.output_path,
        artifact_type=report.artifact_type,
        entry_count=report.entry_count,
        bytes_written=report.bytes_written,
        can_run=report.runnable,
        masked_count=len(masked),
        masked=[target.name] if masked and head.artifact_type == "file" else masked[:SKIPPED_SHOWN],
        skipped_count=len(left_out) + incoming.packed.left_out_count,
        skipped=skipped[:SKIPPED_SHOWN],
    )
    detail = {"path": head.path, "output_path": report.output_path, "entry_count": report.entry_count}
    session.note("export", {**detail, "bytes": report.bytes_written})
    return result


class _Incoming:
    """What the agent sends of a packed tree: its head, then its entries, then what it left out."""

    def __init__(self, verb: str, messages: Messages, masks: Masks) -> None:
        self.packed = Packed()
        self.too_deep: list[Skipped] = []
        self._verb = verb
        self._masks = masks
        self._messages = messages

    def head(self) -> _Head:
        try:
            first = next(self._messages)
        except StopIteration:
            raise ProtocolError("cannot export: the agent sent nothing") from None
        return checked(self._verb, first.value if isinstance(first, Event) else None, _Head)

    def items(self, head: _Head, seed: SeedImage | None) -> Iterator[Entry | Piece]:
        """The whole tree, put together with the `seed` if one is given. Raises `EntryError` for a sequence that breaks
        the rules."""
        items = self._sent()
        if seed is not None:
            items = merged(items, seed, head.lower, self.too_deep)
        for item in items:
            if isinstance(item, Entry):
                self._require_open_names(item)
            yield item

    def _sent(self) -> Iterator[Entry | Piece]:
        decoder = EntryDecoder()
        while True:
            try:
                message = next(self._messages)
            except StopIteration as done:
                self.packed = checked(self._verb, done.value, Packed)
                decoder.close()
                return
            if isinstance(message, Data):
                yield from decoder.feed(bytes(message.data))

    def _require_open_names(self, entry: Entry) -> None:
        """A name cannot be overwritten as content can."""
        if any(self._masks.found(os.fsencode(text)) for text in (entry.path, entry.target)):
            raise InvalidArgument(
                f"cannot export {entry.path}: its name or the link in it holds a secret",
                hint="Rename or remove it in the workspace, or export the rest apart",
            )

    def close(self) -> None:
        self._messages.close()
