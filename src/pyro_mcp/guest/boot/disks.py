"""disks: mounts this guest's own disks as its root.

The environment is below, read-only and shared by all; the scratch disk is above and takes every write. Disks are found
by serial number, because their letters follow the order in which the bus finds them.
"""

from __future__ import annotations

import errno
import os

from pyro_mcp.guest.boot.sysfs import find_device
from pyro_mcp.guest.syscalls import (
    MS_MOVE,
    MS_NOATIME,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    mount,
)

ENVIRONMENT, SCRATCH, ROOT = "/pyro/environment", "/pyro/scratch", "/pyro/root"
RUNTIME = "/run/pyro/runtime"
_QUIET = MS_NOSUID | MS_NODEV
_LINKS = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}


def prepare() -> None:
    """Before the freeze: everything that every guest of the kind shares."""
    _prepare_run()
    _prepare_dev()
    for path in (ENVIRONMENT, SCRATCH, ROOT):
        os.makedirs(path, exist_ok=True)
    mount(find("environment"), ENVIRONMENT, "erofs", MS_RDONLY)


_assembled = False
_workspace = -1
_spares = -1
OVERLAY = "redirect_dir=on,index=on,metacopy=off,xino=on"
"""How every overlay here is mounted: directories of the lower layer can be renamed, its hard links stay linked, and a
file keeps its numbers when it is first written to."""
_REDIRECT_MAX = "/sys/module/overlay/parameters/redirect_max", "3500"
"""Bytes of the path in the lower layer that a renamed directory may have had: what fits into an extended attribute."""
SPARES = 32
"""Empty files that wait on the scratch disk, so that one whose user has taken every inode can still be mounted."""
_EXT4_MAGIC_AT, _EXT4_MAGIC = 1080, b"\x53\xef"


def has_scratch() -> bool:
    """Whether a formatted scratch disk is attached. A template meant for disks that hold data already has a blank."""
    return _is_ext4(find("scratch"))


def file_system(device: str) -> str:
    """What the device holds by its superblock: what we write is ext4, what other tools make for us erofs."""
    return "ext4" if _is_ext4(device) else "erofs"


def _is_ext4(device: str) -> bool:
    with open(device, "rb", buffering=0) as disk:
        return os.pread(disk.fileno(), len(_EXT4_MAGIC), _EXT4_MAGIC_AT) == _EXT4_MAGIC


def assemble() -> None:
    """Mount the scratch disk, lay it over the environment, and make that the root of this process. Idempotent.

    For a fresh scratch disk this happens before the freeze: mounting takes an emulated guest 0.1 s, and every fresh
    guest starts from a copy of the very disk that was mounted.
    """
    global _assembled, _workspace, _spares
    if _assembled:
        return
    _assembled = True
    # The disk reads as zeros where nothing was written, so its inode tables need no zeroing; the kernel's thread for
    # that would take a seventh of a restore's time, and flush the disk, just when the first command comes.
    mount(find("scratch"), SCRATCH, "ext4", MS_NOATIME, "noinit_itable,no_prefetch_block_bitmaps")
    upper, work, workspace, spares = (f"{SCRATCH}/{name}" for name in ("upper", "work", "workspace", "spares"))
    for path in (upper, work, workspace, spares):
        os.makedirs(path, mode=0o755, exist_ok=True)
    _spares = os.open(spares, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    if os.statvfs(_spares).f_ffree < SPARES:
        for name in os.listdir(_spares):
            os.unlink(name, dir_fd=_spares)
    else:
        keep_spares()
    _workspace = os.open(workspace, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    parameter, value = _REDIRECT_MAX
    with open(parameter, "w", encoding="ascii") as file:
        file.write(value)
    mount("overlay", ROOT, "overlay", MS_NOATIME, f"lowerdir={ENVIRONMENT},upperdir={upper},workdir={work},{OVERLAY}")
    for name in ("proc", "sys", "dev", "run"):
        target = f"{ROOT}/{name}"
        if not os.path.isdir(target):
            os.mkdir(target)
        mount(f"/{name}", target, "", MS_MOVE)
    _enter(ROOT)
    for path, mode in (("/tmp", 0o1777), ("/root", 0o700), ("/etc", 0o755)):
        if not os.path.isdir(path):
            os.mkdir(path)
            os.chmod(path, mode)


def keep_spares() -> None:
    """Put by what may have been used while the disks were mounted. Without a scratch disk there is nothing to do."""
    if _spares < 0:
        return
    there = set(os.listdir(_spares))
    for name in map(str, range(SPARES)):
        if name not in there:
            try:
                os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=_spares))
            except OSError:
                # As many as there is room for.
                return


def workspace_directory() -> int:
    """The directory on the scratch disk that holds /workspace; the new root has no name for it. Not to be closed.

    Raises `OSError` before `assemble`.
    """
    if _workspace < 0:
        raise OSError(errno.ENODEV, "there is no scratch disk")
    return _workspace


def find(serial: str) -> str:
    """The device of the disk with this serial number. Raises `FileNotFoundError`."""
    found = find_device("/sys/block", "serial", serial)
    if found is None:
        raise FileNotFoundError(errno.ENOENT, f"no disk with the serial number {serial!r}")
    return found


def _prepare_run() -> None:
    """Put /run on a tmpfs that can move into the new root as one, with the runtime at the same path in it."""
    staging = "/pyro/run"
    os.makedirs(staging, exist_ok=True)
    mount("tmpfs", staging, "tmpfs", _QUIET, "mode=755")
    os.makedirs(f"{staging}/pyro/runtime")
    mount(RUNTIME, f"{staging}/pyro/runtime", "", MS_MOVE)
    mount(staging, "/run", "", MS_MOVE)


def _prepare_dev() -> None:
    for name, target in _LINKS.items():
        if not os.path.lexists(f"/dev/{name}"):
            os.symlink(target, f"/dev/{name}")
    for name in ("pts", "shm"):
        os.makedirs(f"/dev/{name}", exist_ok=True)
    mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "gid=5,mode=620,ptmxmode=666")
    mount("tmpfs", "/dev/shm", "tmpfs", _QUIET, "mode=1777")


def _enter(root: str) -> None:
    """Move `root` over / rather than only chroot into it, so that user namespaces still work in the guest."""
    os.chdir(root)
    mount(".", "/", "", MS_MOVE)
    os.chroot(".")
    os.chdir("/")
