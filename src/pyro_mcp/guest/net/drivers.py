"""drivers: the kernel's part of the network, which the initramfs brings.

They are loaded before a guest is frozen, while the initramfs is still in sight: loading takes an emulated guest a tenth
of a second. Without an interface or a rule they do nothing.
"""

from __future__ import annotations

import os

from pyro_mcp.guest import syscalls

DIRECTORY = "/modules/network"
_SETTINGS = {
    # Connections here are closed for both sides at once; the kernel's minutes of memory would only fill its table.
    "nf_conntrack_tcp_timeout_time_wait": 10,
    # A program may say all it has to say and then wait long for the answer.
    "nf_conntrack_tcp_timeout_close_wait": 7200,
    "nf_conntrack_tcp_timeout_fin_wait": 7200,
    "nf_conntrack_max": 65536,
}


def load() -> None:
    """Load the drivers in their order. Raises `OSError`, such as `FileNotFoundError` once the initramfs is covered."""
    with open(f"{DIRECTORY}/order", encoding="ascii") as file:
        names = file.read().split()
    for name in names:
        fd = os.open(f"{DIRECTORY}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            # Without this, the driver would begin by making an interface that nobody asked for.
            syscalls.load_module(fd, "numdummies=0" if name == "dummy.ko" else "")
        finally:
            os.close(fd)


def tune() -> None:
    """Set what connections of this kind need, once the drivers are there. Raises `OSError`."""
    for name, value in _SETTINGS.items():
        with open(f"/proc/sys/net/netfilter/{name}", "w", encoding="ascii") as file:
            file.write(str(value))
