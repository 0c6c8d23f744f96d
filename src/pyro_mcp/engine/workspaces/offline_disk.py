"""The `disk` verbs: a stopped workspace's disk, read without booting it and without mounting it.

/workspace is put together from the upper directory on the disk and the seed below it, as the guest's overlay would.
Everything happens on a copy, which ends with the request.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyro_mcp.engine.files.sync import host_path
from pyro_mcp.engine.fleet.fleet import Fleet
from pyro_mcp.engine.registry import Registry
from pyro_mcp.engine.secrets.scrub import scrub_file
from pyro_mcp.engine.secrets.store import SecretManager
from pyro_mcp.engine.seed import FORMER_IMAGE, seed_of
from pyro_mcp.engine.staging import ExportStaging
from pyro_mcp.errors import Conflict, InvalidArgument, NotFound, Unsupported
from pyro_mcp.model.disk import DiskExport
from pyro_mcp.model.file import FileContent, FileEntry, FileList, FileType
from pyro_mcp.operations.call import Call
from pyro_mcp.protocol.overlay import inode_of
from pyro_mcp.system.atomic import disk_errors, sync_directory
from pyro_mcp.system.sparse import copy_sparse, extents
from pyro_mcp.trees.destination import refuse_existing
from pyro_mcp.trees.ext4 import Ext4, Inode
from pyro_mcp.trees.ext4_reader import SeedImage, SeedNode
from pyro_mcp.trees.layers import seed_directory
from pyro_mcp.trees.work import Track, work_directory

WORKSPACE = "/workspace"
COPY = ".pyro-disk-"
DEPTH_MAX = 256
RUNTIME = (("upper", "run"), ("upper", "dev"), ("upper", "proc"), ("upper", "sys"), ("upper", "pyro"))
"""What a guest has only while it runs, by its path on the scratch disk: secrets, sockets, descriptors."""
MIB = 1024 * 1024


@dataclass(frozen=True)
class Stopped:
    """The disk of a stopped workspace. `stamp` is what every result carries."""

    workspace_id: str
    home: Path
    scratch: Path
    bytes: int
    seed: Path | None
    stamp: dict[str, Any]
    track: Track

    @contextlib.contextmanager
    def copied(self, call: Call[Any], home: Path) -> Iterator[Ext4]:
        """A copy of the disk in a new directory below `home`, its journal done; gone afterwards."""
        with disk_errors("read the disk"), work_directory(home, COPY, track=self.track) as work:
            call.progress("copying the disk", None)
            copy_sparse(self.scratch, work / "disk", size=self.bytes)
            image = Ext4(work / "disk")
            image.replay()
            yield image

    @contextlib.contextmanager
    def viewed(self, call: Call[Any]) -> Iterator[_DiskView]:
        """/workspace as it is on a copy of the disk, and in the seed below that."""
        if self.seed is not None and self.seed.name == FORMER_IMAGE:
            raise Unsupported(
                f"cannot read the disk of {self.workspace_id}: its seed was made by an earlier version",
                hint="Start it with <<start_workspace>>, and list, read or export its files then",
            )
        with contextlib.ExitStack() as held:
            image = held.enter_context(self.copied(call, self.home))
            with disk_errors("read the seed"):
                seed = held.enter_context(SeedImage(self.seed)) if self.seed else None
                yield _DiskView(image, seed)


class OfflineDisk:
    """Reads the disks of workspaces that are stopped."""

    def __init__(self, registry: Registry, fleet: Fleet, secrets: SecretManager, staging: ExportStaging) -> None:
        self._registry = registry
        self._fleet = fleet
        self._secrets = secrets
        self._staging = staging

    @contextlib.contextmanager
    def _stopped(self, ref: str) -> Iterator[Stopped]:
        """The disk of the workspace `ref`, which stays stopped meanwhile. Raises `Conflict` when it is not stopped and
        `Unsupported` when it has no disk."""
        with self._registry.locked(ref) as row:
            machine = self._fleet.get(row.machine_id)
            if machine.execution_mode != "guest":
                raise Unsupported(
                    f"cannot read the disk of {row.workspace_id}: it runs on this host and has none",
                    hint="Its files are in the directory that <<status_workspace>> names as host_directory",
                )
            if machine.state not in ("stopped", "failed"):
                raise Conflict(
                    f"cannot read the disk of {row.workspace_id}: it is not stopped",
                    hint=f"Stop it with <<stop_workspace({self._registry.handle(row)})>>",
                )
            home = self._registry.directory(row.workspace_id)
            stamp = {
                "workspace_id": row.workspace_id,
                "execution_mode": machine.execution_mode,
                "isolation": machine.isolation,
            }
            scratch = self._fleet.directory(row.machine_id) / "scratch.ext4"
            size = row.scratch_mib * MIB
            yield Stopped(row.workspace_id, home, scratch, size, seed_of(home), stamp, self._staging.tracked)

    def export(self, call: Call[Any], ref: str, output: str) -> DiskExport:
        """Copy the disk to the new file `output`, whole or not at all, without what only a running guest has."""
        target = host_path("export to", output)
        refuse_existing(target)
        with self._stopped(ref) as disk, disk.copied(call, target.parent) as image:
            call.progress("cleaning the copy", None)
            for names in RUNTIME:
                found = image.lookup(*names)
                if found is not None and stat.S_ISDIR(found.mode):
                    image.remove_below(found)
            image.clean()
            call.check()
            made = image.path
            with disk_errors(f"write {target}", on=target.parent):
                masked = scrub_file(self._secrets.masks(disk.workspace_id), made)
                size, kept = _flushed(made)
                try:
                    os.link(made, target)
                except FileExistsError:
                    raise Conflict(f"cannot export to {target}: it exists", hint="Choose another name") from None
                try:
                    sync_directory(target.parent)
                except OSError:
                    target.unlink()
                    raise
            detail = {"path": "disk", "output_path": str(target), "entry_count": 1, "bytes": kept}
            self._registry.note(disk.workspace_id, "export", detail, call.notice)
            return DiskExport(
                **disk.stamp,
                output_path=str(target),
                disk_format="ext4",
                size_bytes=size,
                bytes_written=kept,
                masked_count=masked,
            )

    def list(self, call: Call[Any], ref: str, path: str, *, recursive: bool, limit: int) -> FileList:
        """What is below `path` of /workspace, sorted."""
        with self._stopped(ref) as disk, disk.viewed(call) as view:
            start = view.find(_parts(path))
            shown = _join(_parts(path))
            found = sorted(view.walk(start, shown, recursive, limit), key=lambda entry: entry.path)
            return FileList(
                **disk.stamp,
                path=shown,
                recursive=recursive,
                pattern=None,
                count=min(len(found), limit),
                truncated=len(found) > limit,
                entries=found[:limit],
            )

    def read(self, call: Call[Any], ref: str, path: str, *, max_bytes: int) -> FileContent:
        """The first `max_bytes` of a file of /workspace, as text."""
        with self._stopped(ref) as disk, disk.viewed(call) as view:
            shown = _join(_parts(path))
            data, size = view.read(view.find(_parts(path)), shown, max_bytes)
            cut = size > len(data)
            content, binary = _text(data, cut)
            return FileContent(
                **disk.stamp,
                path=shown,
                size_bytes=size,
                max_bytes=max_bytes,
                truncated=cut,
                binary=binary,
                sha256=None,
                content=content,
            )


@dataclass(frozen=True)
class _OverlayEntry:
    """One file of the merged tree: on the disk, in the seed, or, a directory, in both."""

    upper: Inode | None
    lower: SeedNode | None

    @property
    def kind(self) -> FileType:
        mode = self.upper.mode if self.upper else self.lower.mode if self.lower else 0
        if stat.S_ISDIR(mode):
            return "directory"
        return "file" if stat.S_ISREG(mode) else "symlink" if stat.S_ISLNK(mode) else "other"


class _DiskView:
    """/workspace as the guest's overlay shows it: the upper directory over the seed."""

    def __init__(self, image: Ext4, seed: SeedImage | None) -> None:
        self._image = image
        self._seed = seed
        self._upper = image.lookup("workspace", "upper")
        self._changed = self._index() if seed else {}

    def find(self, parts: list[str]) -> _OverlayEntry:
        """Raises `NotFound`. Links are not followed."""
        entry = _OverlayEntry(self._upper, self._seed.root if self._seed else None)
        for part in parts:
            inside = self.children([entry])[0] if entry.kind == "directory" else {}
            if part not in inside:
                hint = "List the directory above it to find its name"
                raise NotFound(f"cannot find {_join(parts)}: there is no {part!a} on the disk", hint=hint)
            entry = inside[part]
        return entry

    def children(self, entries_above: list[_OverlayEntry]) -> list[dict[str, _OverlayEntry]]:
        """What each of the directories holds."""
        uppers = [entry.upper for entry in entries_above if entry.upper]
        listings = iter(self._image.listing([node.inode for node in uppers]))
        return [self._merge(next(listings) if entry.upper else {}, entry.lower) for entry in entries_above]

    def walk(self, start: _OverlayEntry, path: str, recursive: bool, limit: int) -> list[FileEntry]:
        """Entries below `start`, or itself; one more than `limit` when there are more."""
        if start.kind != "directory":
            return self._entries([(path, start)])
        found: list[tuple[str, _OverlayEntry]] = []
        level = [(path, start)]
        for _ in range(DEPTH_MAX):
            inside = self.children([entry for _, entry in level])
            here = [
                (f"{above}/{name}", entry)
                for (above, _), entries in zip(level, inside, strict=True)
                for name, entry in sorted(entries.items())
            ]
            found += here
            level = [(below, entry) for below, entry in here if entry.kind == "directory"]
            if not recursive or not level or len(found) > limit:
                break
        return self._entries(found[: limit + 1])

    def read(self, entry: _OverlayEntry, path: str, limit: int) -> tuple[bytes, int]:
        """The beginning of a file, and its size."""
        if entry.kind != "file":
            hint = (
                "List it instead" if entry.kind in ("directory", "symlink") else "Export the disk and look with debugfs"
            )
            raise InvalidArgument(f"cannot read {path}: it is a {entry.kind}, not a file", hint=hint)
        if entry.upper is not None:
            return self._image.content(entry.upper, limit), entry.upper.size
        assert entry.lower is not None
        assert self._seed is not None
        return self._seed.read(entry.lower, 0, limit), entry.lower.size

    def _below(self, directory: SeedNode | None) -> dict[str, SeedNode]:
        if directory is None or self._seed is None or not directory.is_directory:
            return {}
        return {os.fsdecode(name): self._seed.node(number) for name, number in self._seed.names(directory)}

    def _target(self, node: SeedNode) -> str:
        return os.fsdecode(self._seed.target(node)) if self._seed else ""

    def _merge(self, upper: dict[str, Inode], directory: SeedNode | None) -> dict[str, _OverlayEntry]:
        merged = {name: self._seeded(node) for name, node in self._below(directory).items() if name not in upper}
        merged |= {name: _OverlayEntry(node, None) for name, node in upper.items() if not node.whiteout}
        inner = {name: node for name, node in upper.items() if stat.S_ISDIR(node.mode)}
        inodes = [node.inode for node in inner.values()]
        marks = zip(inner, self._image.opaque(inodes), self._image.redirects(inodes), strict=True)
        for name, opaque, target in marks:
            if not opaque:
                merged[name] = _OverlayEntry(inner[name], self._lower(directory, target or name))
        return merged

    def _seeded(self, node: SeedNode) -> _OverlayEntry:
        """A name of the seed that the disk does not have: a hard link of it may have been changed by another name."""
        changed = self._changed.get(node.number)
        return _OverlayEntry(changed, None) if changed and not node.is_directory else _OverlayEntry(None, node)

    def _index(self) -> dict[int, Inode]:
        """The changed hard links of the seed, by their inode there."""
        found = self._image.lookup("workspace", "work", "index")
        entries = self._image.listing([found.inode])[0] if found else {}
        return {inode_of(os.fsencode(name)): node for name, node in entries.items() if not node.whiteout}

    def _lower(self, directory: SeedNode | None, target: str) -> SeedNode | None:
        """The seed's directory that one of the disk is merged with: of the name `target` in `directory` or, absolute,
        anywhere in the seed. No link is followed, and what no kernel writes leads nowhere."""
        if self._seed is None:
            return None
        start = self._seed.root if target.startswith("/") else directory
        return None if start is None else seed_directory(self._seed, target.removeprefix("/"), start)

    def _entries(self, found: list[tuple[str, _OverlayEntry]]) -> list[FileEntry]:
        links = [entry.upper for _, entry in found if entry.upper and entry.kind == "symlink"]
        targets = iter(self._image.targets(links))
        shown = []
        for path, entry in found:
            kind, size, target = entry.kind, 0, None
            if kind == "file":
                size = entry.upper.size if entry.upper else entry.lower.size if entry.lower else 0
            elif kind == "symlink":
                target = next(targets) if entry.upper else self._target(entry.lower) if entry.lower else None
            shown.append(FileEntry(path=path, artifact_type=kind, size_bytes=size, link_target=target))
        return shown


def _parts(path: str) -> list[str]:
    """The names of a path under /workspace, absolute or relative to it. Raises `InvalidArgument`."""
    bare = path.removeprefix(WORKSPACE) if path == WORKSPACE or path.startswith(WORKSPACE + "/") else path
    parts = [part for part in bare.split("/") if part not in ("", ".")]
    if ".." in parts or (path.startswith("/") and bare is path):
        hint = "Leave out `..`" if ".." in parts else "Give a path under /workspace, or a relative one"
        raise InvalidArgument(f"cannot use the path {path!a}: it is not under /workspace", hint=hint)
    return parts


def _join(parts: list[str]) -> str:
    return "/".join([WORKSPACE, *parts])


def _flushed(path: Path) -> tuple[int, int]:
    """Make the file durable; its size, and how many bytes of it hold data."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
        return os.fstat(file.fileno()).st_size, sum(length for _, length in extents(file.fileno()))


def _text(data: bytes, cut: bool) -> tuple[str, bool]:
    """The text, and whether it is none."""
    try:
        return data.decode("utf-8"), b"\0" in data
    except UnicodeDecodeError as error:
        if cut and error.start >= len(data) - 3:
            return data[: error.start].decode("utf-8"), False
        return "", True
