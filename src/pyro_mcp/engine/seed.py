"""Seeds: the content a workspace starts with, its baseline, and putting it or a snapshot into a machine just made.

Under an overlay the seed is a read-only image that the machine gets as a disk. Without one it is a directory that
nothing else writes to, and the workspace begins as a copy of it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pyro_mcp.engine.agent import AgentClient
from pyro_mcp.machines.driver import Capabilities, Machine
from pyro_mcp.model.sync import Skipped
from pyro_mcp.model.workspace import SeedMode, WorkspaceSeed
from pyro_mcp.operations.call import Call
from pyro_mcp.settings import host_environ
from pyro_mcp.system.atomic import disk_errors

if TYPE_CHECKING:
    from pyro_mcp.trees.checkout import CheckoutSource
    from pyro_mcp.trees.seed import Source

IMAGE, TREE = "seed.ext4", "seed"
FORMER_IMAGE = "seed.erofs"
"""What earlier versions made, which a guest mounts as well; this host does not read it."""
SKIPPED_SHOWN = 100
GIT_TRIES = 3
"""How often a checkout is read in which git is at work."""
NO_XATTRS = "its extended attributes were left out: the file system of this host has none"
_PIECE = 256 * 1024


@dataclass(frozen=True)
class _Populated:
    entry_count: int = 0
    bytes_written: int = 0


@dataclass(frozen=True)
class SeedRequest:
    """What a workspace is to start with: `path` of this host, and whether it is a checkout that is taken with its
    repository. `origin` says what the result is to tell of where it came from."""

    path: Path
    git: bool = False
    origin: dict[str, Any] = field(default_factory=dict)


def create_seed(call: Call[Any], directory: Path, request: SeedRequest | None, promised: Capabilities) -> WorkspaceSeed:
    """Make what is requested the baseline kept in `directory`; nothing to do for a workspace that starts empty.

    Raises `NotFound`, `InvalidArgument`, `PermissionDenied`, `DiskFull`, `Unsupported`, `Conflict` or `Cancelled`.
    """
    if request is None:
        return WorkspaceSeed()
    from pyro_mcp.trees.checkout import Changed

    cancelled = threading.Event()
    forget = call.on_cancel(cancelled.set)
    try:
        for left in reversed(range(GIT_TRIES if request.git else 1)):
            try:
                return _made(call, directory, request, promised, cancelled)
            except Changed:
                if not left:
                    raise
        raise AssertionError("unreachable")
    finally:
        forget()


def _made(
    call: Call[Any], directory: Path, request: SeedRequest, promised: Capabilities, cancelled: threading.Event
) -> WorkspaceSeed:
    source = _source(directory, request, cancelled)
    if promised.overlay:
        made = _as_image(call, directory / IMAGE, source, request.path, promised, cancelled)
    else:
        made = _as_tree(directory, source, request.path, cancelled)
    if request.git:
        found = cast("CheckoutSource", source).checkout
        made = replace(made, seed_path=str(found.root), head=found.head, branch=found.branch)
    return replace(made, **request.origin)


def _source(directory: Path, request: SeedRequest, cancelled: threading.Event) -> Source:
    from pyro_mcp.trees.checkout import CheckoutSource, read_checkout
    from pyro_mcp.trees.seed import open_source

    if request.git:
        return CheckoutSource(
            read_checkout(request.path, directory, host_environ(), cancelled=cancelled), cancelled=cancelled
        )
    with disk_errors(f"read {request.path}"):
        return open_source(request.path, cancelled=cancelled)


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
    call: Call[Any], image: Path, source: Source, path: Path, promised: Capabilities, cancelled: threading.Event
) -> WorkspaceSeed:
    from pyro_mcp.trees.seed import build_seed

    made = build_seed(
        source, path, image, device_bytes=promised.seed_bytes, progress=call.progress, cancelled=cancelled
    )
    return _described(made.mode, path, made.entry_count, made.bytes_written, made.skipped)


def _as_tree(directory: Path, source: Source, path: Path, cancelled: threading.Event) -> WorkspaceSeed:
    from pyro_mcp.trees.work import work_directory
    from pyro_mcp.trees.writer import TreeWriter

    what = f"import {path}"
    with disk_errors(what), work_directory(directory, ".seed-") as work:
        root = work / TREE
        root.mkdir(0o700)
        with TreeWriter(root, what=what, mask=0o3777, directory_bits=0o700, xattrs=True, cancelled=cancelled) as writer:
            writer.write(source)
            writer.finish()
        root.rename(directory / TREE)
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
