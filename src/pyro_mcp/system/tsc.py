"""The host's time-stamp counter frequency, which an emulated guest needs as a parameter.

On QEMU's `microvm` a guest calibrates its TSC against the PIT, fails when the host is busy, and then hangs. The kernel
parameter `tsc_early_khz` replaces the calibration; under emulation the guest's TSC runs at the host's rate.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import platform
import re
import time
from pathlib import Path

_RDTSC = b"\x0f\x31\x48\xc1\xe2\x20\x48\x09\xd0\xc3"
"""rdtsc; shl rdx,32; or rax,rdx; ret"""

_SAMPLE_SECONDS = 0.02


@functools.cache
def tsc_khz(cpuinfo: Path = Path("/proc/cpuinfo")) -> int | None:
    """TSC frequency in kHz; None on a host without one.

    Where the kernel vouches for the frequency (`tsc_known_freq`), `cpu MHz` is exact. Elsewhere `cpu MHz` moves with
    power saving, so the counter is measured against the monotonic clock, good to a few parts per million.
    """
    if platform.machine() != "x86_64":
        return None
    text = cpuinfo.read_text()
    stated = re.search(r"^cpu MHz\s*:\s*([\d.]+)", text, re.MULTILINE)
    if stated and re.search(r"^flags\s*:.*\btsc_known_freq\b", text, re.MULTILINE):
        return round(float(stated[1]) * 1000)
    return _measure() or (round(float(stated[1]) * 1000) if stated else None)


def _measure() -> int | None:
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    except OSError:  # a hardened host refuses executable memory
        return None
    page.write(_RDTSC)
    holder = ctypes.c_char.from_buffer(page)
    rdtsc = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(holder))
    begin_ns, begin_ticks = _sample(rdtsc)
    time.sleep(_SAMPLE_SECONDS)
    end_ns, end_ticks = _sample(rdtsc)
    del rdtsc, holder
    return round((end_ticks - begin_ticks) * 1_000_000 / (end_ns - begin_ns))


def _sample(rdtsc: ctypes._CFunctionType) -> tuple[int, int]:
    """One (ns, ticks) pair from the tightest of several readings, so that a preemption does not skew it."""
    best: tuple[int, int, int] | None = None
    for _ in range(16):
        before, ticks, after = time.monotonic_ns(), rdtsc(), time.monotonic_ns()
        if best is None or after - before < best[0]:
            best = (after - before, (before + after) // 2, ticks)
    assert best is not None
    return best[1], best[2]
