"""The guest runtime: what every guest boots, whatever its environment. Built once, cached by content, checked on use.

    <cache>/runtime/<digest>/   kernel · initramfs · image.erofs · manifest.json
    <cache>/packages/<digest>/  the part that comes from Debian, see `packages`

The digest covers Debian's part, the agent's source and the start-up script, so a changed input is a new runtime. A
newer kernel is fetched only when a caller asks for it (`refresh`), never behind a running command's back.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path

from pyro_mcp.environments import cache
from pyro_mcp.environments.bootstrap import remove_tree
from pyro_mcp.environments.image import make_erofs, make_initramfs
from pyro_mcp.environments.packages import (
    MODULES,
    NETWORK_MODULES,
    Packages,
    build_packages,
    compile_python,
    current_packages,
)
from pyro_mcp.errors import PyroError
from pyro_mcp.settings import Settings
from pyro_mcp.system.atomic import disk_errors, make_directory, publish_directory
from pyro_mcp.system.locks import locked
from pyro_mcp.system.process import run
from pyro_mcp.system.progress import Progress, scaled, silent

RECIPE_VERSION = 2
_SOURCE = Path(__file__).resolve().parent.parent
_DATA = Path(__file__).resolve().parent / "data"
_AGENT_PARTS = ("protocol", "guest", "version.py")


@dataclass(frozen=True)
class Runtime:
    """A runtime on disk. `versions` names the Debian packages in it."""

    digest: str
    kernel: Path
    kernel_version: str
    initramfs: Path
    image: Path
    versions: dict[str, str]


def ensure_runtime(
    settings: Settings,
    progress: Progress = silent,
    *,
    refresh: bool = False,
    cancelled: threading.Event | None = None,
) -> Runtime:
    """The runtime for today's agent, built if need be; `refresh` asks the archive for newer packages first.

    Costs milliseconds when it is there. Several callers share one build. Raises `MissingDependency`, `DiskFull`,
    `PermissionDenied`, `Cancelled` or another `PyroError`.
    """
    hint = "Name a cache that may be written with PYRO_CACHE_DIR, or have its owner run `pyro demo` with this version"
    with disk_errors("build the guest runtime", refused=hint):
        found = None if refresh else find_runtime(settings)
        if found is not None:
            return found
        base = make_directory(settings.cache_dir / "runtime")

        def waiting() -> None:
            progress("Waiting for another process that builds the guest runtime", None)

        with locked(base / ".lock", on_wait=waiting, cancelled=cancelled):
            packages = None if refresh else current_packages(settings)
            if packages is None:
                packages = build_packages(settings, scaled(progress, 0.0, 0.9), cancelled)
            return _open(settings, packages) or _build(settings, packages, scaled(progress, 0.9, 1.0))


def find_runtime(settings: Settings) -> Runtime | None:
    """The runtime for today's agent if it is built and undamaged; None otherwise. Builds nothing."""
    with disk_errors("open the guest runtime"):
        packages = current_packages(settings)
        return None if packages is None else _open(settings, packages)


def runtime_digest(packages: Packages) -> str:
    """Names the runtime that these packages and today's agent make."""
    return cache.digest_json([RECIPE_VERSION, packages.digest, _digest_of_agent()])


def agent_files() -> dict[str, Path]:
    """The files of the agent by their path below `pyro_mcp`."""
    roots = [_SOURCE / part for part in _AGENT_PARTS]
    files = [file for root in roots for file in ([root] if root.is_file() else root.rglob("*.py"))]
    return {file.relative_to(_SOURCE).as_posix(): file for file in sorted(files)}


def _digest_of_agent() -> str:
    digest = hashlib.sha256()
    files = {**agent_files(), "init": _DATA / "init.sh", "main": _DATA / "main.py"}
    for name, file in files.items():
        content = file.read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _open(settings: Settings, packages: Packages) -> Runtime | None:
    digest = runtime_digest(packages)
    entry = cache.open_entry(settings.cache_dir / "runtime" / digest)
    if entry is None:
        return None
    return Runtime(
        digest=digest,
        kernel=entry.path / "kernel",
        kernel_version=packages.kernel_version,
        initramfs=entry.path / "initramfs",
        image=entry.path / "image.erofs",
        versions=packages.versions,
    )


def _build(settings: Settings, packages: Packages, progress: Progress) -> Runtime:
    base = settings.cache_dir / "runtime"
    work = base / ".build"
    remove_tree(work)
    digest = runtime_digest(packages)
    try:
        product = work / "product"
        product.mkdir(parents=True)
        progress("Packing the agent", 0.0)
        os.link(packages.kernel, product / "kernel")
        _pack_initramfs(packages, work / "initramfs", product / "initramfs")
        _pack_agent(packages, work / "image", product / "image.erofs")
        cache.seal(product, {"digest": digest, "packages": packages.digest, "versions": packages.versions})
        publish_directory(product, base / digest)
    finally:
        remove_tree(work)
    runtime = _open(settings, packages)
    if runtime is None:
        raise PyroError("cannot build the guest runtime: the agent's source changed meanwhile", hint="Try again")
    return runtime


def _pack_initramfs(packages: Packages, tree: Path, archive: Path) -> None:
    for name in ("bin", "dev", "modules/network", "proc", "run", "sys"):
        (tree / name).mkdir(parents=True)
    shutil.copyfile(packages.busybox, tree / "bin/busybox")
    shutil.copyfile(_DATA / "init.sh", tree / "init")
    for module in packages.modules:
        shutil.copyfile(module, tree / "modules" / module.name)
    (tree / "modules/order").write_text("".join(f"{name}.ko\n" for name in MODULES))
    for module in packages.network_modules:
        shutil.copyfile(module, tree / "modules/network" / module.name)
    (tree / "modules/network/order").write_text("".join(f"{name}.ko\n" for name in NETWORK_MODULES))
    for program in ("bin/busybox", "init"):
        os.chmod(tree / program, 0o755)
    make_initramfs(tree, archive)


def _pack_agent(packages: Packages, tree: Path, image: Path) -> None:
    tree.mkdir()
    run(["tar", "-xf", str(packages.python), "-C", str(tree), "--no-same-owner"], timeout=60.0)
    package = tree / "agent/pyro_mcp"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('"""pyro inside a guest: the agent and the wire, nothing else."""\n')
    for name, source in agent_files().items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, package / name)
    shutil.copyfile(_DATA / "main.py", tree / "agent/main.py")
    compile_python(tree, tree / "agent", beside_source=False)
    make_erofs(tree, image, compress=False, timestamp=0, all_root=True)
