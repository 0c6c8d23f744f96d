"""Directories become images: erofs for disks, newc cpio for the initramfs. The same input gives the same bytes."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pyro_mcp.environments.bootstrap import confined
from pyro_mcp.system.process import run

_UUID = "70797265-6d63-7000-8000-000000000000"
"""Fixed: a random file system id would change the digest of equal content."""

PACK_SECONDS = 600.0


def make_erofs(
    tree: Path,
    image: Path,
    *,
    compress: bool,
    exclude: Sequence[str] = (),
    timestamp: int | None = None,
    all_root: bool = False,
    cancelled: threading.Event | None = None,
) -> None:
    """Pack `tree` into the read-only `image`. `exclude` holds regular expressions over paths below `tree`.

    Without `timestamp` (seconds since 1970) files keep theirs. Raises the errors of `system.process.run`.
    """
    argv = ["mkfs.erofs", "--quiet", f"-U{_UUID}"]
    argv += ["-zlz4"] if compress else []
    argv += ["--preserve-mtime"] if timestamp is None else [f"-T{timestamp}"]
    argv += ["--all-root"] if all_root else []
    argv += [f"--exclude-regex={pattern}" for pattern in exclude]
    # A tree that becomes root's is its maker's own; any other may hold files of subordinate ids.
    pack = partial(run, timeout=PACK_SECONDS) if all_root else confined
    pack([*argv, str(image), str(tree)], cancelled=cancelled)


def make_initramfs(tree: Path, archive: Path) -> None:
    """Pack `tree` into an uncompressed newc archive owned by root: the fastest form for an emulated guest."""
    names = sorted(
        os.path.relpath(os.path.join(base, name), tree)
        for base, dirs, files in os.walk(tree)
        for name in [*dirs, *files]
    )
    for name in names:
        os.utime(tree / name, (0, 0), follow_symlinks=False)
    listing = "\0".join(names).encode()
    argv = ["cpio", "--quiet", "-o", "-0", "-H", "newc", "--reproducible", "-R", "0:0", "-O", str(archive.absolute())]
    run(argv, cwd=tree, input=listing, timeout=120.0)
