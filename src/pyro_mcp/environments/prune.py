"""Prune: give back the disk space of what nobody needs.

Goes: images that no name of the catalogue means any more, and on request those that it does mean, unless a machine has
a lease on them; what dead builds left, runtimes and Debian parts other than those in use, frozen guests made from any
of it, and clones of projects. What somebody works on at this moment is locked, and left alone.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from pyro_mcp.environments import cache, leases
from pyro_mcp.environments.bootstrap import remove_tree
from pyro_mcp.environments.runtime import find_runtime
from pyro_mcp.model.environment import PruneResult
from pyro_mcp.settings import Settings
from pyro_mcp.system.locks import locked, try_locked

_DIGEST = re.compile(r"[0-9a-f]{64}")


def prune(settings: Settings, needed: Callable[[str], bool], *, dry_run: bool = False) -> PruneResult:
    """Prune `settings.cache_dir`, but for images with a name that is `needed`. A `dry_run` only reports.

    Raises `OSError`."""
    sweep = _Sweep(settings.cache_dir, needed, dry_run=dry_run)
    sweep.images()
    runtime = find_runtime(settings)
    if runtime is not None:
        sweep.runtimes(keep=runtime.digest)
    sweep.templates(keep_runtime=None if runtime is None else runtime.digest)
    sweep.clones()
    return PruneResult(
        removed=sorted(sweep.removed),
        kept=sorted(sweep.kept),
        unused=sorted(sweep.unused),
        deleted=sorted(map(str, sweep.deleted)),
        freed_bytes=sweep.freed,
        dry_run=dry_run,
    )


class _Sweep:
    """One prune under way: what it removed, what it left, the bytes on disk that came back."""

    def __init__(self, cache_dir: Path, needed: Callable[[str], bool], *, dry_run: bool) -> None:
        self._cache = cache_dir
        self._needed = needed
        self._dry_run = dry_run
        self._environments = cache_dir / "environments"
        self.removed: list[str] = []
        self.kept: list[str] = []
        self.unused: list[str] = []
        self.deleted: list[Path] = []
        self.freed = 0

    def images(self) -> None:
        """Images that are not needed and without a live lease, and builds whose builder is dead."""
        base = self._environments
        if not base.is_dir():
            return
        for build in base.glob(".build-*"):
            with try_locked(base / build.name.replace(".build-", ".lock-", 1)) as free:
                if free:
                    self._delete(build)
        with locked(base / ".lock"):
            for image in _digests(base):
                self._image(image)

    def _image(self, image: Path) -> None:
        names = self._names(image)
        label = names[0].name if names else image.name
        with contextlib.ExitStack() as stack:
            locks = [self._environments / f".lock-{cache.file_name(name.name)}" for name in names]
            # A locked name is being installed or leased at this moment.
            free = all(stack.enter_context(try_locked(lock)) for lock in locks)
            held = leases.held(image) if self._dry_run else leases.sweep(image)
            if held or not free:
                self.kept.append(label)
                return
            if any(self._needed(name.name) for name in names):
                self.unused.append(label)
                return
            for name in () if self._dry_run else names:
                name.unlink()
            self._delete(image)
            self.removed.append(label)

    def runtimes(self, *, keep: str) -> None:
        """Runtimes and Debian parts other than the current ones, unless somebody builds just now."""
        base = self._cache / "runtime"
        with try_locked(base / ".lock") as free:
            if not free:
                return
            packages = self._cache / "packages"
            current = os.path.basename(os.path.realpath(packages / "current"))
            stale = [path for path in _digests(base) if path.name != keep]
            stale += [path for path in _digests(packages) if path.name != current]
            for path in [*stale, base / ".build", packages / ".build"]:
                self._delete(path)

    def templates(self, *, keep_runtime: str | None) -> None:
        """Frozen guests whose image or runtime is gone. Guests that run from one keep what they mapped."""
        images = {path.name for path in _digests(self._environments) if path not in self.deleted}
        for manifest in (self._cache / "templates").glob("*/manifest.json"):
            fields = cache.read_json(manifest)
            if fields.get("environment") not in images or fields.get("runtime") != keep_runtime:
                self._delete(manifest.parent)

    def clones(self) -> None:
        """Clones that nobody reads just now: workspaces have copies."""
        for lock in (self._cache / "projects").glob("*/lock"):
            with try_locked(lock) as free:
                for path in lock.parent.iterdir() if free else ():
                    if path != lock:
                        self._delete(path)

    def _names(self, image: Path) -> list[Path]:
        links = (self._environments / "names").glob("*")
        return sorted(link for link in links if os.path.basename(os.readlink(link)) == image.name)

    def _delete(self, path: Path) -> None:
        if not path.exists():
            return
        self.freed += _disk_bytes(path)
        self.deleted.append(path)
        if self._dry_run:
            return
        if path.name.startswith(".build"):
            remove_tree(path)  # its files may belong to subordinate ids
            return
        # Renamed first: a half-removed image must never look installed.
        doomed = path.with_name(f".build-removed-{path.name}")
        os.rename(path, doomed)
        shutil.rmtree(doomed)


def _digests(base: Path) -> list[Path]:
    if not base.is_dir():
        return []
    return sorted(path for path in base.iterdir() if _DIGEST.fullmatch(path.name) and path.is_dir())


def _disk_bytes(tree: Path) -> int:
    """Bytes that `tree` takes on disk, as far as it may be read."""
    total = 0
    for base, _, names in os.walk(tree):
        for name in names:
            with contextlib.suppress(FileNotFoundError, PermissionError):
                total += os.lstat(os.path.join(base, name)).st_blocks * 512
    return total
