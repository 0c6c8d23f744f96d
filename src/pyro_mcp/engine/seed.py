"""Seeds: the content a workspace starts with, its baseline, and putting it or a snapshot into a machine just made.

Under an overlay the seed is a read-only image that the machine gets as a disk. Without one it is a directory that
nothing else writes to, and the workspace begins as a copy of it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pyro_mcp.engine.agent import AgentClient
from pyro_mcp.errors import InvalidArgument
from pyro_mcp.machines.driver import Capabilities, Machine
from pyro_mcp.model.sync import Skipped
from pyro_mcp.model.workspace import SeedMode, WorkspaceSeed
from pyro_mcp.operations.call import Call
from pyro_mcp.system.atomic import disk_errors

IMAGE, TREE = "seed.ext4", "seed"
FORMER_IMAGE = "seed.erofs"
"""What earlier versions made, which a guest mounts as well; this host does not read it."""
SKIPPED_SHOWN = 100
NO_XATTRS = "its extended attributes were left out: the file system of this host has none"
_PIECE = 256 * 1024


@dataclass(frozen=True)
class _Populated:
    entry_count: int = 0
    bytes_written: int = 0


def create_seed(call: Call[Any], directory: Path, seed_path: str | None, promised: Capabilities) -> WorkspaceSeed:
    """Make `seed_path` of this host the baseline kept in `directory`; nothing to do for a workspace that starts empty.

    Raises `NotFound`, `InvalidArgument`, `PermissionDenied`, `DiskFull`, `Unsupported` or `Cancelled`.
    """
    if seed_path is None:
        return WorkspaceSeed()
    path = Path(seed_path)
    if not path.is_absolute():
        raise InvalidArgument(f"cannot import {seed_path[:300]!a}: it is not absolute", hint="Give the whole path")
    cancelled = threading.Event()
    forget = call.on_cancel(cancelled.set)
    try:
        if promised.overlay:
            return _as_image(call, directory / IMAGE, path, promised, cancelled)
        return _as_tree(directory / TREE, path, cancelled)
    finally:
        forget()


def seed_of(directory: Path) -> Path | None:
    """The baseline kept in `directory`, in the form its machine's driver takes it."""
    return next(
        (path for path in (directory / IMAGE, directory / FORMER_IMAGE, directory / TREE) if path.exists()), None
    )


def populate(call: Call[Any], machine: Machine, seed: Path | None, snapshot: Path | None) -> None:
    """Give a machine just made the content of its workspace: a snapshot, or what it starts with.

    A machine with an overlay finds its seed itself; for a snapshot it must have been launched with `load`.
    """
    if machine.capabilities.overlay:
        if snapshot is not None:
            AgentClient(machine).request(call, "overlay_load", {}, _Populated, send=_file(snapshot))
    elif snapshot is not None:
        AgentClient(machine).request(call, "tree_unpack", {"dest": "/workspace"}, _Populated, send=_file(snapshot))
    elif seed is not None:
        AgentClient(machine).request(call, "tree_unpack", {"dest": "/workspace"}, _Populated, send=_tree(seed))


def _as_image(
    call: Call[Any], image: Path, path: Path, promised: Capabilities, cancelled: threading.Event
) -> WorkspaceSeed:
    from pyro_mcp.trees.seed import build_seed, open_source

    with disk_errors(f"read {path}"):
        source = open_source(path, cancelled=cancelled)
    made = build_seed(
        source, path, image, device_bytes=promised.seed_bytes, progress=call.progress, cancelled=cancelled
    )
    return _described(made.mode, path, made.entry_count, made.bytes_written, made.skipped)


def _as_tree(root: Path, path: Path, cancelled: threading.Event) -> WorkspaceSeed:
    from pyro_mcp.trees.seed import open_source
    from pyro_mcp.trees.writer import TreeWriter

    with disk_errors(f"read {path}"):
        source = open_source(path, cancelled=cancelled)
    what = f"import {path}"
    with disk_errors(what):
        root.mkdir(0o700)
        with TreeWriter(root, what=what, mask=0o3777, directory_bits=0o700, xattrs=True, cancelled=cancelled) as writer:
            writer.write(source)
            writer.finish()
    skipped = [*source.skipped, *(Skipped(path=bare, reason=NO_XATTRS) for bare in writer.bare)]
    return _described(source.mode, path, writer.meter.entries, writer.meter.bytes, skipped)


def _described(mode: str, path: Path, entries: int, size: int, skipped: list[Skipped]) -> WorkspaceSeed:
    return WorkspaceSeed(
        mode=cast(SeedMode, mode),
        seed_path=str(path),
        entry_count=entries,
        bytes_written=size,
        skipped_count=len(skipped),
        skipped=skipped[:SKIPPED_SHOWN],
    )


def _file(path: Path) -> Iterator[bytes]:
    with disk_errors(f"read {path}"), path.open("rb") as file:
        while piece := file.read(_PIECE):
            yield piece


def _tree(root: Path) -> Iterator[bytes]:
    from pyro_mcp.trees.flow import encoded
    from pyro_mcp.trees.source import DirectorySource

    return encoded(DirectorySource(root))
