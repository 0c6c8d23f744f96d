"""Entries from a guest become a file or directory of the host: whole or absent, over nothing, reaching nowhere else."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

from pyro_mcp.errors import Conflict, InvalidArgument, NotFound, ProtocolError
from pyro_mcp.model.count import count_of
from pyro_mcp.model.sync import Skipped
from pyro_mcp.protocol.entries import Entry, EntryError, Piece
from pyro_mcp.system.atomic import disk_errors, sync_directory
from pyro_mcp.system.progress import Progress, silent
from pyro_mcp.trees.limits import Limits
from pyro_mcp.trees.links import leading_out
from pyro_mcp.trees.runnable import runnable
from pyro_mcp.trees.work import Track, work_directory
from pyro_mcp.trees.writer import TreeWriter

SAFE_MODE = 0o755
"""Neither setuid, setgid, sticky nor write permission for others arrives on the host."""
XATTRS = "its extended attributes stay in the workspace"
"""A value might hold a secret, or mean something to a program of the host."""
_NOREPLACE = 1


EXISTS = "Choose another name. Changes to files that are there come home as a patch: <<diff_workspace>>"


@dataclass(frozen=True)
class ExportReport:
    """What arrived. `skipped`: links that lead out of the export, and what lost its extended attributes. `runnable`:
    files that could run something on the host, relative to `output_path`."""

    output_path: str
    artifact_type: Literal["file", "directory"]
    entry_count: int
    bytes_written: int
    skipped: list[Skipped]
    runnable: list[str]


def export_tree(
    items: Iterable[Entry | Piece],
    output: Path,
    *,
    kind: Literal["file", "directory"],
    limits: Limits | None = None,
    progress: Progress = silent,
    cancelled: threading.Event | None = None,
    track: Track = contextlib.nullcontext,
    treat: Callable[[Path], None] = lambda built: None,
) -> ExportReport:
    """Write `items` to the new path `output`, durably. For a `directory` their paths are below it; a `file` is one file
    entry of any name. `track` is called with the directory beside `output` in which it is built, and `treat` may change
    the content of what was built there before it is seen.

    Raises `Conflict` when `output` exists, `NotFound` when its parent does not, `DiskFull`, `PermissionDenied`,
    `InvalidArgument` (limits, a hostile sequence), `ProtocolError` (a damaged one) or `Cancelled`. Then nothing is
    left beside.
    """

    def emit(entries: int, size: int) -> None:
        progress(f"Writing {output}: {count_of(entries, 'entry', 'entries', grouped=True)}, {size / 1e6:,.0f} MB", None)

    with disk_errors(f"export to {output}", on=output.parent):
        refuse_existing(output)
        with work_directory(output.parent, ".pyro-export-", track=track) as work:
            tree = work / "tree"
            tree.mkdir()
            what = f"export to {output}"
            # A directory its owner cannot enter could not be removed again.
            bits = partial(TreeWriter, mask=SAFE_MODE, directory_bits=0o700)
            with bits(tree, what=what, limits=limits, cancelled=cancelled, emit=emit) as writer:
                try:
                    writer.write(_single(items) if kind == "file" else items)
                except EntryError as error:
                    raise ProtocolError(f"cannot export to {output}: the guest sent nonsense: {error}") from None
                skipped = _drop_links(writer)
                count = writer.meter.entries - len(skipped)
                writer.finish()
            built = tree / _ONLY if kind == "file" else tree
            treat(built)
            _make_durable(built, output)
    single = kind == "file"
    found = [output.name] if single else [*writer.files, *writer.links]
    skipped += [Skipped(path=output.name if single else path, reason=XATTRS) for path in writer.bare]
    return ExportReport(str(output), kind, count, writer.meter.bytes, skipped, runnable(found))


def refuse_existing(output: Path) -> None:
    """Raise `Conflict`, `NotFound` or `InvalidArgument` unless an export to `output` can begin."""
    if output.name in ("", "..") or "\0" in str(output):
        hint = "Give the path that the file or directory shall have on this host"
        raise InvalidArgument(f"cannot export to {str(output)!a}: it names no new file", hint=hint)
    if os.path.lexists(output):
        raise Conflict(f"cannot export to {output}: it exists", hint=EXISTS)
    if not output.parent.is_dir():
        hint = "Make the directory first"
        raise NotFound(f"cannot export to {output}: there is no directory {output.parent}", hint=hint)


_ONLY = "file"


def _single(items: Iterable[Entry | Piece]) -> Iterator[Entry | Piece]:
    seen = False
    for item in items:
        if isinstance(item, Entry):
            if seen or item.type != "file":
                raise EntryError("one file was asked for and something else came")
            seen = True
            item = item._replace(path=_ONLY)
        yield item
    if not seen:
        raise EntryError("one file was asked for and none came")


def _drop_links(writer: TreeWriter) -> list[Skipped]:
    """Remove the links that lead out. They are known by now, and nothing has followed one."""
    dropped = []
    for path in leading_out(writer.links):
        reason = f"a link that leads out of the export, to {writer.links[path][:200]!a}"
        dropped.append(Skipped(path=path, reason=reason))
        writer.unlink(path)
    return dropped


def _flush(built: Path) -> None:
    """Make what was built durable: a file by itself, a tree with its whole file system, which for a few thousand files
    takes a small part of what flushing each of them would."""
    descriptor = os.open(built, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if built.is_dir():
            if _libc().syncfs(descriptor) != 0:
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code), str(built))
        else:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_durable(built: Path, output: Path) -> None:
    """What was built becomes `output`, durably or not at all."""
    _flush(built)
    _publish(built, output)
    try:
        sync_directory(output.parent)
    except OSError:
        os.rename(output, built)
        raise


def _publish(built: Path, output: Path) -> None:
    """Rename, replacing nothing."""
    rename = _libc().renameat2
    here = -100  # AT_FDCWD
    if rename(here, os.fsencode(built), here, os.fsencode(output), _NOREPLACE) == 0:
        return
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        # A file system without the flag: look, then rename, the best that it offers.
        refuse_existing(output)
        os.rename(built, output)
        return
    if code in (errno.EEXIST, errno.ENOTEMPTY):
        raise Conflict(f"cannot export to {output}: it exists", hint=EXISTS)
    raise OSError(code, os.strerror(code), str(output))


@cache
def _libc() -> Any:
    library = ctypes.CDLL(None, use_errno=True)
    library.renameat2.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    library.syncfs.argtypes = [ctypes.c_int]
    return library
