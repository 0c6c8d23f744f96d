"""The part of the guest runtime that comes from Debian: kernel, drivers, busybox, and a Python for any userland.

It is fetched once and kept by content, apart from the agent, so that a changed agent is repacked in a second. The
Python tree is self-contained (`lib/ld.so` is called by path), and holds its standard library as compiled files only:
compiling costs an emulated guest twenty times what it costs here.
"""

from __future__ import annotations

import os
import platform
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyro_mcp.environments import cache
from pyro_mcp.environments.bootstrap import SUITE, archive_versions, bootstrap, remove_tree
from pyro_mcp.environments.kernel import unpack_kernel
from pyro_mcp.errors import PyroError, Unsupported
from pyro_mcp.model.count import count_of
from pyro_mcp.settings import Settings
from pyro_mcp.system.atomic import make_directory, publish_directory, replace_link
from pyro_mcp.system.process import run
from pyro_mcp.system.progress import Progress

RECIPE_VERSION = 3
PYTHON = "python3.11"
GUEST_ROOT = "/run/pyro/runtime"
KERNEL_PACKAGES = {"x86_64": "linux-image-cloud-amd64", "aarch64": "linux-image-cloud-arm64"}
OTHER_PACKAGES = ("busybox-static", "libffi8", "libpython3.11-stdlib", "python3.11-minimal")
MODULES = (
    "virtio_ring", "virtio", "virtio_mmio", "virtio_blk", "libcrc32c", "erofs", "overlay", "virtio_console",
)  # fmt: skip
"""In the order in which they can be loaded."""
NETWORK_MODULES = (
    "dummy", "nfnetlink", "nf_tables", "nf_defrag_ipv4", "nf_defrag_ipv6", "nf_conntrack", "nf_nat", "nft_chain_nat",
    "nft_redir", "nf_reject_ipv4", "nf_reject_ipv6", "nft_reject", "nft_reject_inet", "nfnetlink_queue", "nft_queue",
)  # fmt: skip
"""What `guest/net` needs besides those, in order; the agent loads them by itself."""

_SIGNATURE_MARK, _SIGNATURE_HEADER = b"~Module signature appended~\n", 12

_LIBRARIES = ("libc.so.6", "libm.so.6", "libz.so.1", "libexpat.so.1", "libffi.so.8", "liblzma.so.5", "libbz2.so.1.0")
_EXTENSIONS = (
    "_asyncio", "_bz2", "_contextvars", "_ctypes", "_decimal", "_json", "_lzma", "_multiprocessing", "_posixshmem",
    "_queue", "_typing", "_zoneinfo", "mmap", "resource", "termios",
)  # fmt: skip
"""Those with OpenSSL, SQLite and curses stay out: their libraries weigh more than all the rest."""
_UNWANTED = (
    "LICENSE.txt", "__phello__", "antigravity.py", "curses", "dbm", "distutils", "doctest.py", "idlelib", "lib2to3",
    "lib-dynload", "pdb.py", "pydoc.py", "pydoc_data", "site.py", "sitecustomize.py", "sqlite3", "test", "this.py",
    "turtle.py", "unittest", "venv", "wsgiref", "xmlrpc",
)  # fmt: skip


@dataclass(frozen=True)
class Packages:
    """The published part: `kernel`, `busybox`, the drivers in load order, and the Python tree."""

    path: Path
    digest: str
    kernel_version: str
    versions: dict[str, str]

    @property
    def kernel(self) -> Path:
        return self.path / "kernel"

    @property
    def busybox(self) -> Path:
        return self.path / "busybox"

    @property
    def modules(self) -> list[Path]:
        """Drivers in the order in which they are loaded."""
        return [self.path / f"{name}.ko" for name in MODULES]

    @property
    def network_modules(self) -> list[Path]:
        """The drivers that the agent loads, in order."""
        return [self.path / f"{name}.ko" for name in NETWORK_MODULES]

    @property
    def python(self) -> Path:
        """A tar of the tree: `bin/`, `lib/`."""
        return self.path / "python.tar"


def recipe() -> dict[str, Any]:
    """What decides the content, besides the archive's state."""
    machine = platform.machine()
    if machine not in KERNEL_PACKAGES:
        raise Unsupported(f"cannot build a guest runtime: no kernel for {machine}")
    names = sorted([KERNEL_PACKAGES[machine], *OTHER_PACKAGES])
    return {
        "version": RECIPE_VERSION,
        "suite": SUITE,
        "machine": machine,
        "packages": names,
        "modules": MODULES + NETWORK_MODULES,
    }


def current_packages(settings: Settings) -> Packages | None:
    """The packages in use: built by today's recipe and undamaged; None when there are none."""
    link = settings.cache_dir / "packages" / "current"
    entry = cache.open_entry(link)
    if entry is None or entry.fields.get("recipe") != cache.digest_json(recipe()):
        return None
    fields = entry.fields
    return Packages(link.resolve(), fields["digest"], fields["kernel_version"], fields["versions"])


def build_packages(settings: Settings, progress: Progress, cancelled: threading.Event | None = None) -> Packages:
    """Fetch the packages from the archive and make them current. The caller holds the runtime's lock.

    Raises the errors of `bootstrap`, `OSError`, and `PyroError` when the archive lacks something we need.
    """
    base = make_directory(settings.cache_dir / "packages")
    work = base / ".build"
    remove_tree(work)
    try:
        root, product = work / "root", work / "product"
        product.mkdir(parents=True)
        names = recipe()["packages"]
        options = ["--skip=cleanup/apt"]
        bootstrap(root, variant="extract", include=names, options=options, progress=progress, cancelled=cancelled)
        progress("Compiling the guest's Python", 0.6)
        fields = _harvest(root, product)
        target = base / fields["digest"]
        if cache.open_entry(target) is None:
            cache.seal(product, fields)
            publish_directory(product, target)
        replace_link(base / "current", fields["digest"])
    finally:
        remove_tree(work)
    packages = current_packages(settings)
    if packages is None:
        raise PyroError("cannot build the guest runtime: its files changed while they were being stored")
    return packages


def _harvest(root: Path, product: Path) -> dict[str, Any]:
    """Take what we need out of the unpacked packages; the facts for the manifest."""
    kernels = sorted((root / "boot").glob("vmlinuz-*"))
    if len(kernels) != 1:
        raise PyroError(f"cannot build the guest runtime: {count_of(len(kernels), 'kernel')} in the package")
    version = kernels[0].name.removeprefix("vmlinuz-")
    unpack_kernel(kernels[0], product / "kernel")
    shutil.copyfile(_one(root, "bin/busybox", "usr/bin/busybox"), product / "busybox")
    for name in MODULES + NETWORK_MODULES:
        found = list((root / "lib/modules" / version / "kernel").rglob(f"{name}.ko"))
        if len(found) != 1:
            raise PyroError(f"cannot build the guest runtime: no driver {name} in kernel {version}")
        (product / f"{name}.ko").write_bytes(unsigned(found[0].read_bytes()))
    _pack_python(root, product.with_name("python"), product / "python.tar")
    versions = archive_versions(root)
    requested = {name: versions[name] for name in versions if name in recipe()["packages"] or name.endswith(version)}
    contents = {entry.name: cache.digest_file(entry) for entry in sorted(product.iterdir())}
    return {
        "digest": cache.digest_json([recipe(), contents]),
        "kernel_version": version,
        "recipe": cache.digest_json(recipe()),
        "versions": requested,
    }


def unsigned(module: bytes) -> bytes:
    """The driver without its appended signature, whose check takes an emulated guest as long as the loading.

    What is loaded is vouched for by the runtime's digest. The kernel notes the lack as taint "E", and nothing else.
    """
    if not module.endswith(_SIGNATURE_MARK):
        return module
    end = len(module) - len(_SIGNATURE_MARK)
    length = int.from_bytes(module[end - 4 : end], "big")
    signature = end - _SIGNATURE_HEADER - length
    return module[:signature] if signature > 0 else module


def _pack_python(root: Path, tree: Path, archive: Path) -> None:
    library = tree / "lib" / PYTHON
    (tree / "bin").mkdir(parents=True)
    shutil.copy(_one(root, f"usr/bin/{PYTHON}"), tree / "bin" / "python3")
    shutil.copytree(root / "usr/lib" / PYTHON, library, ignore=shutil.ignore_patterns(*_UNWANTED, "__pycache__"))
    (library / "lib-dynload").mkdir()
    for name in _EXTENSIONS:
        for found in (root / "usr/lib" / PYTHON / "lib-dynload").glob(f"{name}.*.so"):
            shutil.copy(found, library / "lib-dynload")
    triplet = f"{platform.machine()}-linux-gnu"
    for name in _LIBRARIES:
        shutil.copy(_one(root, f"lib/{triplet}/{name}", f"usr/lib/{triplet}/{name}"), tree / "lib" / name)
    loaders = sorted((root / f"lib/{triplet}").glob("ld-linux-*.so.*"))
    shutil.copy(loaders[0], tree / "lib" / "ld.so")
    compile_python(tree, library, beside_source=True)
    for source in library.rglob("*.py"):
        source.unlink()
    argv = ["tar", "--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner", "-cf", str(archive)]
    run([*argv, "-C", str(tree), "."], timeout=120.0)


def compile_python(tree: Path, sources: Path, *, beside_source: bool) -> None:
    """Compile `sources` with the Python of `tree`, for use below `GUEST_ROOT`.

    Compiled files are never checked against their source, and stand beside it (usable without) or in `__pycache__`.
    """
    argv = [str(tree / "lib/ld.so"), "--inhibit-cache", "--library-path", str(tree / "lib"), "--argv0"]
    argv += [str(tree / "bin/python3"), str(tree / "bin/python3"), "-I", "-S", "-m", "compileall", "-q", "-f"]
    argv += ["-b"] if beside_source else []
    argv += ["--invalidation-mode", "unchecked-hash", "-s", str(tree), "-p", GUEST_ROOT, str(sources)]
    run(argv, timeout=300.0)


def _one(root: Path, *candidates: str) -> Path:
    """The first candidate below `root`, links followed inside `root` only."""
    for candidate in candidates:
        path = root / candidate
        if path.is_symlink():
            path = path.parent / os.path.basename(os.readlink(path))
        if path.is_file():
            return path
    raise PyroError(f"cannot build the guest runtime: the packages hold no {candidates[0]}")
