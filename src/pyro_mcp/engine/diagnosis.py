"""Diagnosis: what this host can do, read-only. Works without a node and without any program.

Each finding is `ok`, a `warning` (guests run, but), or `missing` (no guest runs), with the remedy.
"""

from __future__ import annotations

import os
import platform as host_platform
import shutil
import sqlite3
import sys
from collections.abc import Iterator

from pyro_mcp.engine.fleet.pool import AMPLE_MIB, size_of
from pyro_mcp.errors import PyroError
from pyro_mcp.model.doctor import CheckStatus, DoctorCheck, DoctorReport
from pyro_mcp.settings import Settings
from pyro_mcp.system.memory import available_mib
from pyro_mcp.system.process import PACKAGES, find_program, run
from pyro_mcp.version import VERSION

GIB = 1024**3
DISK_MIN, DISK_AMPLE = 2 * GIB, 8 * GIB
PYTHON_MIN = (3, 11)
SQLITE_SHARED_WAL = (3, 51, 3)
SUPPORTED = ("linux-x86_64",)
PROGRAMS = {
    "qemu-system-x86_64": "runs guests",
    "mmdebstrap": "makes environments",
    "mkfs.erofs": "makes read-only images",
    "mkfs.ext4": "makes scratch disks",
    "cpio": "makes the boot archive",
    "setpriv": "ends what pyro starts along with it",
    "unshare": "keeps builds apart from the host",
}
_MACHINES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}


class Diagnosis:
    """What verbs that need no node act on."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def diagnose(self, platform: str | None = None) -> DoctorReport:
        """The report on this host, seen as `platform` (such as `linux-x86_64`; its own when None)."""
        seen_as = platform or this_platform()
        versions = {"pyro": VERSION, "python": host_platform.python_version(), "sqlite": sqlite3.sqlite_version}
        checks: list[DoctorCheck] = []
        for look in (
            _platform,
            _python,
            _programs,
            _kvm,
            _boundary,
            _namespaces,
            _memory,
            _pool,
            _disks,
            _images,
            _sqlite,
        ):
            checks += look(_Shown(self._settings, seen_as, versions))
        ready = all(check.status != "missing" for check in checks)
        return DoctorReport(
            platform=seen_as,
            ready=ready,
            isolation=_tier(self._settings) if ready else None,
            checks=checks,
            versions=versions,
            paths={"state_dir": str(self._settings.state_dir), "cache_dir": str(self._settings.cache_dir)},
        )


def this_platform() -> str:
    """This host's platform, such as `linux-x86_64`."""
    machine = host_platform.machine()
    return f"{sys.platform}-{_MACHINES.get(machine, machine)}"


class _Shown:
    """What a check looks at; it may add to `versions`."""

    def __init__(self, settings: Settings, seen_as: str, versions: dict[str, str]) -> None:
        self.settings = settings
        self.seen_as = seen_as
        self.versions = versions


def _check(name: str, status: CheckStatus, detail: str, remedy: str | None = None) -> DoctorCheck:
    return DoctorCheck(name=name, status=status, detail=detail, remedy=remedy if status != "ok" else None)


def _platform(view: _Shown) -> Iterator[DoctorCheck]:
    good = view.seen_as in SUPPORTED
    detail = f"{view.seen_as}, kernel {host_platform.release()}"
    yield _check("platform", "ok" if good else "missing", detail, f"Guests run on {', '.join(SUPPORTED)} so far")


def _python(view: _Shown) -> Iterator[DoctorCheck]:
    good = sys.version_info[:2] >= PYTHON_MIN
    yield _check("python", "ok" if good else "missing", view.versions["python"], "Install Python 3.11 or newer")


def _programs(view: _Shown) -> Iterator[DoctorCheck]:
    for name, purpose in PROGRAMS.items():
        found = find_program(name)
        if found is None:
            yield _check(name, "missing", f"not installed; it {purpose}", f"apt-get install {PACKAGES[name]}")
        else:
            if name in ("qemu-system-x86_64", "mmdebstrap"):
                view.versions[name] = _version_of(name)
            yield _check(name, "ok", f"{view.versions.get(name, found)}: {purpose}")


def _version_of(name: str) -> str:
    try:
        lines = run([name, "--version"], timeout=10).stdout.splitlines()
    except PyroError as error:
        return f"unknown ({error.message})"
    return lines[0] if lines else "unknown"


def _kvm(view: _Shown) -> Iterator[DoctorCheck]:
    usable, detail, remedy = _kvm_verdict(view.settings)
    if usable:
        yield _check("kvm", "ok", detail)
    elif usable is None:
        yield _check("kvm", "warning", detail, remedy)
    elif view.settings.require_isolation == "kvm":
        yield _check("kvm", "missing", f"{detail}; PYRO_REQUIRE_ISOLATION=kvm forbids anything else", remedy)
    else:
        yield _check("kvm", "warning", f"{detail}; guests run in software emulation, about 20 times slower", remedy)


def _kvm_verdict(settings: Settings) -> tuple[bool | None, str, str | None]:
    """Usable or not (None: nobody has asked yet), why, and what would help. Boots nothing."""
    from pyro_mcp.machines.preflight import remembered_verdict

    try:
        verdict = remembered_verdict(settings.cache_dir)
    except PyroError as error:
        return False, error.message, error.hint
    if verdict is None:
        return None, "/dev/kvm is there; the first guest will prove whether it works", "Run: pyro run debian:12 -- true"
    return verdict.usable, verdict.reason, verdict.remedy


def _tier(settings: Settings) -> str | None:
    """The isolation the next guest would get; None when only a guest can tell."""
    usable = _kvm_verdict(settings)[0]
    return None if usable is None else "kvm-qemu" if usable else "emulated"


def _boundary(view: _Shown) -> Iterator[DoctorCheck]:
    tier = _tier(view.settings)
    if tier == "kvm-qemu":
        yield _check("isolation", "ok", "kvm-qemu: a hardware-backed virtual machine")
        return
    known = tier or "not proved yet, possibly emulated"
    detail = f"{known}: QEMU does not support software emulation as a security boundary; it keeps mistakes in"
    yield _check("isolation", "warning", detail, "For hostile code use a host with KVM and PYRO_REQUIRE_ISOLATION=kvm")


def _namespaces(view: _Shown) -> Iterator[DoctorCheck]:
    from pyro_mcp.environments.namespaces import finding

    good, detail, remedy = finding()
    if good:
        yield _check("namespaces", "ok", detail)
    elif _complete(view.settings):
        yield _check("namespaces", "warning", f"{detail}; what is in the cache runs, and nothing can be added", remedy)
    else:
        yield _check("namespaces", "missing", f"{detail}; environments cannot be made", remedy)


def _complete(settings: Settings) -> bool:
    """Whether a guest can be made without building anything."""
    from pyro_mcp.environments.runtime import find_runtime
    from pyro_mcp.environments.store import EnvironmentStore

    try:
        return find_runtime(settings) is not None and any(one.installed for one in EnvironmentStore(settings).list())
    except PyroError:
        return False


def _memory(view: _Shown) -> Iterator[DoctorCheck]:
    limit = view.settings.memory_limit_mib
    available = available_mib()
    detail = f"{available} MiB available; guests may take {limit} MiB together"
    tight = min(limit, available) < 1024
    yield _check("memory", "warning" if tight else "ok", detail, "A guest takes 1024 MiB by default")


def _pool(view: _Shown) -> Iterator[DoctorCheck]:
    size, asked = size_of(view.settings), view.settings.pool_size is not None
    if size:
        detail = f"{size} restored ahead for each kind of machine that was used of late"
        yield _check("pool", "ok", f"{detail}; PYRO_POOL_SIZE=0 switches that off")
    else:
        why = "PYRO_POOL_SIZE=0" if asked else f"less than {AMPLE_MIB} MiB are available"
        yield _check("pool", "ok", f"no machine is restored ahead: {why}")


def _disks(view: _Shown) -> Iterator[DoctorCheck]:
    for name, path in (("state_dir", view.settings.state_dir), ("cache_dir", view.settings.cache_dir)):
        existing = next(parent for parent in (path, *path.parents) if parent.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            remedy = f"Give this user the directory, or name another with PYRO_{name.upper()}"
            enough = name == "cache_dir" and _complete(view.settings)
            detail = f"{path} cannot be written" + ("; what is in it runs, and nothing can be added" if enough else "")
            yield _check(name, "warning" if enough else "missing", detail, remedy)
            continue
        free = shutil.disk_usage(existing).free
        status: CheckStatus = "ok" if free >= DISK_AMPLE else "warning" if free >= DISK_MIN else "missing"
        detail = f"{path}, {free / GIB:.1f} GiB free"
        yield _check(name, status, detail, f"Have {DISK_AMPLE // GIB} GiB free; <<prune_environments>> helps")


def _images(view: _Shown) -> Iterator[DoctorCheck]:
    for look in (_runtime, _environments):
        try:
            yield look(view)
        except PyroError as error:
            yield _check(look.__name__.strip("_"), "warning", error.message, error.hint)


def _runtime(view: _Shown) -> DoctorCheck:
    from pyro_mcp.environments.runtime import find_runtime

    found = find_runtime(view.settings)
    if found is None:
        return _check("runtime", "warning", "not built yet", "The first guest builds it; or run: pyro demo")
    view.versions["guest-kernel"] = found.kernel_version
    view.versions.update({f"guest-{name}": version for name, version in found.versions.items()})
    return _check("runtime", "ok", f"guest kernel {found.kernel_version}, runtime {found.digest[:12]}")


def _environments(view: _Shown) -> DoctorCheck:
    from pyro_mcp.environments.store import EnvironmentStore

    installed = [found.name for found in EnvironmentStore(view.settings).list() if found.installed]
    if not installed:
        return _check("environments", "warning", "none installed yet", "Run: pyro env pull debian:12")
    return _check("environments", "ok", f"installed: {', '.join(installed)}")


def _sqlite(view: _Shown) -> Iterator[DoctorCheck]:
    shared = sqlite3.sqlite_version_info >= SQLITE_SHARED_WAL
    note = "" if shared else "; too old for two connections on one log, and pyro only ever uses one"
    yield _check("sqlite", "ok", f"{sqlite3.sqlite_version}{note}")
