"""Templates: a guest kind boots once and is frozen; later guests of that kind map its memory copy-on-write.

A template is a directory `cache_dir/templates/<kind>/` with the RAM file, the device state, the scratch disk and a
manifest. It is
published by one rename, so it is whole or absent. It is trusted only if its files are the very ones that were digested:
once per node by content, after that by inode, size and times; anything else is removed and built again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pyro_mcp.system.locks import locked, try_locked
from pyro_mcp.system.progress import Progress, silent
from pyro_mcp.system.sparse import copy_sparse, digest_sparse

FORMAT = 2
RAM, STATE, SCRATCH, MANIFEST = "ram", "state", "scratch", "manifest.json"
FILES = (RAM, STATE, SCRATCH)


@dataclass(frozen=True)
class TemplateKind:
    """Everything that decides whether a frozen guest can stand for a new one."""

    environment: str
    runtime: str
    vcpu_count: int
    mem_mib: int
    driver: str
    accelerator: str
    vmm_version: str
    command: str
    cpu_model: str
    scratch_mib: int
    """Size of the blank scratch disk that was mounted when the guest was frozen; 0 for a guest without one, which
    children mount themselves because theirs holds data already."""

    @property
    def digest(self) -> str:
        text = json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Template:
    """A frozen guest. Children map `ram` private, load `state`, and start from a copy of `scratch`. `stamp` tells its
    files from any others, also from later ones in the same place."""

    directory: Path
    stamp: tuple[tuple[int, ...], ...] = field(default=(), compare=False)

    @property
    def ram(self) -> Path:
        return self.directory / RAM

    @property
    def state(self) -> Path:
        return self.directory / STATE

    @property
    def scratch(self) -> Path:
        return self.directory / SCRATCH


def memory_of(template: Template, spare_dir: Path) -> Path:
    """The RAM file to map. QEMU opens it for writing, though it writes nothing: one that may not be written is copied
    below `spare_dir`, once."""
    if os.access(template.ram, os.W_OK):
        return template.ram
    home = spare_dir / "templates"
    stamp = "-".join(map(str, _identity(template.ram)))
    copy = home / f"{template.directory.name}-{stamp}"
    if not copy.exists():
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".copy-", dir=home) as directory:
            copy_sparse(template.ram, Path(directory) / RAM)
            os.rename(Path(directory) / RAM, copy)
    return copy


class TemplateStore:
    """The templates under `cache_dir`. Safe between threads and processes."""

    def __init__(self, cache_dir: Path, *, kill_orphan: Callable[[Path], None] = lambda directory: None) -> None:
        """`kill_orphan(directory)` ends what a builder that died has left running there."""
        self._kill_orphan = kill_orphan
        self._root = cache_dir / "templates"
        self._lock = threading.Lock()
        self._verified: dict[str, tuple[tuple[int, ...], ...]] = {}

    def get(self, kind: TemplateKind) -> Template | None:
        """The template of `kind`, if there is a sound one. A damaged one is removed."""
        directory = self._root / kind.digest
        if not directory.exists():
            return None
        stamp = self._sound(kind, directory)
        if stamp is not None:
            return Template(directory, stamp)
        shutil.rmtree(directory, ignore_errors=True)
        return None

    def build(self, kind: TemplateKind, freeze: Callable[[Path], None], progress: Progress = silent) -> Template:
        """The template of `kind`, made if need be by `freeze(directory)`, which writes the RAM and state files there.

        One builder at a time over all processes; the others wait and share its work.
        """

        def waiting() -> None:
            progress("Waiting for another process that starts the first machine of this size", None)

        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._sweep()
        with locked(self._root / f"{kind.digest}.lock", on_wait=waiting):
            self._clear(kind.digest)
            found = self.get(kind)
            if found is not None:
                return found
            temporary = Path(tempfile.mkdtemp(prefix=f"{kind.digest}.tmp-", dir=self._root))
            try:
                freeze(temporary)
                self._seal(kind, temporary)
                os.rename(temporary, self._root / kind.digest)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
        return Template(self._root / kind.digest, _stamp(self._root / kind.digest))

    def discard(self, template: Template) -> None:
        """Drop a template that did not restore. Machines that already map it keep their pages."""
        with contextlib.suppress(OSError):
            shutil.rmtree(template.directory)

    def _sweep(self) -> None:
        """Remove what builders of any kind that died left. Whoever holds a kind's lock is alive."""
        for digest in {leftover.name.partition(".")[0] for leftover in self._root.glob("*.tmp-*")}:
            with try_locked(self._root / f"{digest}.lock") as free:
                if free:
                    self._clear(digest)

    def _clear(self, digest: str) -> None:
        """The caller holds the lock."""
        for leftover in self._root.glob(f"{digest}.tmp-*"):
            self._kill_orphan(leftover)
            shutil.rmtree(leftover, ignore_errors=True)

    def _seal(self, kind: TemplateKind, directory: Path) -> None:
        manifest = {
            "format": FORMAT,
            **dataclasses.asdict(kind),
            "digests": {name: digest_sparse(directory / name) for name in FILES},
        }
        (directory / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True))

    def _sound(self, kind: TemplateKind, directory: Path) -> tuple[tuple[int, ...], ...] | None:
        """What identifies its files, if they are those that were digested."""
        try:
            identity = _stamp(directory)
            with self._lock:
                if self._verified.get(kind.digest) == identity:
                    return identity
            digests = json.loads((directory / MANIFEST).read_text())["digests"]
            sound = all(digest_sparse(directory / name) == digests[name] for name in FILES)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if not sound:
            return None
        with self._lock:
            self._verified[kind.digest] = identity
        return identity


def _stamp(directory: Path) -> tuple[tuple[int, ...], ...]:
    return tuple(_identity(directory / name) for name in FILES)


def _identity(path: Path) -> tuple[int, ...]:
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
