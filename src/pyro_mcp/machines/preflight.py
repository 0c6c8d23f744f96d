"""Is KVM usable here? Proved by booting a guest under it, in bounded time, once per boot of the host.

Opening `/dev/kvm` proves nothing: there are hosts where it opens, makes a vCPU, and then crawls or hangs. So the probe
boots the very kernel and agent that guests boot. The verdict is kept with the host's boot id and QEMU's version, and
is asked for again when either changes.
"""

from __future__ import annotations

import dataclasses
import json
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pyro_mcp.errors import PyroError
from pyro_mcp.machines.qemu.driver import qemu_version
from pyro_mcp.system.atomic import disk_errors, make_directory, unless_read_only, write_file
from pyro_mcp.system.locks import locked
from pyro_mcp.system.process import host_boot_id

PROBE_SECONDS = 8.0
"""A guest under real KVM answers within 2 s, also on a busy host."""

KVM = Path("/dev/kvm")
VERDICT = "kvm.json"


@dataclass(frozen=True)
class Verdict:
    """Whether KVM is usable, and if not, why and what would help."""

    usable: bool
    reason: str
    remedy: str | None = None


def kvm_verdict(cache_dir: Path, boot: Callable[[float], None]) -> Verdict:
    """The verdict for this boot of the host. `boot(seconds)` boots a guest under KVM or raises a `PyroError`."""
    quick = _quick()
    if quick is not None:
        return quick
    path = cache_dir / VERDICT
    basis = {"boot_id": host_boot_id(), "qemu": qemu_version()}
    known = _recall(path, basis)
    with disk_errors("keep what is known of KVM"), unless_read_only():
        if known is None:
            with locked(make_directory(cache_dir) / f"{path.stem}.lock"):
                known = _recall(path, basis) or _probe(boot)
                write_file(path, json.dumps({**basis, **dataclasses.asdict(known)}).encode())
    return known or _proved_unkept(tuple(basis.values()), boot)


_unkept: dict[tuple[str, ...], Verdict] = {}
_proving = threading.Lock()


def _proved_unkept(basis: tuple[str, ...], boot: Callable[[float], None]) -> Verdict:
    """Where nothing may be kept in the cache every process proves it once."""
    with _proving:
        if basis not in _unkept:
            _unkept[basis] = _probe(boot)
        return _unkept[basis]


def remembered_verdict(cache_dir: Path) -> Verdict | None:
    """What is known without booting anything; None when the probe has not run since the host booted."""
    basis = {"boot_id": host_boot_id(), "qemu": qemu_version()}
    return _quick() or _recall(cache_dir / VERDICT, basis)


def _quick() -> Verdict | None:
    """The verdicts that need no guest."""
    if not KVM.exists():
        return Verdict(
            False, "there is no /dev/kvm", "enable virtualisation in the firmware, or load kvm_intel/kvm_amd"
        )
    if not os.access(KVM, os.R_OK | os.W_OK):
        return Verdict(
            False,
            "/dev/kvm may not be opened by this user",
            "add the user to the group kvm, then log in again",
        )
    return None


def _recall(path: Path, basis: dict[str, str]) -> Verdict | None:
    try:
        stored = json.loads(path.read_text())
        if all(stored[key] == value for key, value in basis.items()):
            return Verdict(bool(stored["usable"]), str(stored["reason"]), stored.get("remedy"))
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _probe(boot: Callable[[float], None]) -> Verdict:
    try:
        boot(PROBE_SECONDS)
    except PyroError as error:
        return Verdict(
            False, f"a guest did not boot under it: {_cause(error)}", "use a host with hardware virtualisation"
        )
    return Verdict(True, "a guest booted under it")


def _cause(error: PyroError) -> str:
    """QEMU's own complaint where it made one, otherwise ours."""
    said = [line for line in (error.hint or "").splitlines() if line.startswith("qemu-system")]
    return said[0].partition(": ")[2] if said else error.message.splitlines()[0]
