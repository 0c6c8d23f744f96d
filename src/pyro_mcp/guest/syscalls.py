"""The few system calls that Python does not offer, through libc. They raise `OSError` like those it does."""

from __future__ import annotations

import ctypes
import errno
import os

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_NOATIME, MS_MOVE = 1, 2, 4, 8, 1024, 8192
MNT_DETACH = 2
RB_POWER_OFF = 0x4321FEDC
_FINIT_MODULE = {"x86_64": 313, "aarch64": 273}

_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, kind: str, flags: int = 0, options: str = "") -> None:
    """mount(2)."""
    data = options.encode() if options else None
    if _libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data):
        _raise(f"mount {kind or source} on {target}")


def unmount(target: str) -> None:
    """umount2(2) with MNT_DETACH: out of sight now, gone when nobody uses it."""
    if _libc.umount2(target.encode(), MNT_DETACH):
        _raise(f"unmount {target}")


def syncfs(fd: int) -> None:
    """syncfs(2): what was written to the file system of `fd` is on its disk. Not for O_PATH descriptors."""
    if _libc.syncfs(fd):
        _raise("syncfs")


def sync_data(fd: int) -> None:
    """sync_file_range(2): the content of the file `fd` has been written to the disk, which may still hold it in its
    cache; what describes the file may not have been."""
    wait_write_wait = 7
    if _libc.sync_file_range(fd, ctypes.c_int64(0), ctypes.c_int64(0), wait_write_wait):
        _raise("sync_file_range")


def power_off() -> None:
    """reboot(2) with RB_POWER_OFF; returns only when refused."""
    if _libc.reboot(ctypes.c_int(RB_POWER_OFF)):
        _raise("power off")


def become_subreaper() -> None:
    """prctl(PR_SET_CHILD_SUBREAPER): orphans of descendants become children of this process."""
    if _libc.prctl(36, 1, 0, 0, 0):
        _raise("prctl")


def load_module(fd: int, parameters: str = "") -> None:
    """finit_module(2) on the driver in `fd`; without effect when it is loaded already."""
    number = _FINIT_MODULE[os.uname().machine]
    if _libc.syscall(ctypes.c_long(number), fd, parameters.encode(), 0) and ctypes.get_errno() != errno.EEXIST:
        _raise("load a driver")


def _raise(what: str) -> None:
    number = ctypes.get_errno()
    raise OSError(number, f"{what}: {os.strerror(number)}")
