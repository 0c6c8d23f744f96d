"""identity: what a restored guest gets of its own: random pool, host name, machine id.

Guests restored from one template wake with the same random pool, the same clock and the same names. `adopt` gives each
its own before the first user command; the boot id is read only afterwards, because the kernel draws it on first
sight.
"""

from __future__ import annotations

import _socket
import binascii
import fcntl
import os
import struct
from collections.abc import Callable

from pyro_mcp.guest.boot import root_files
from pyro_mcp.guest.errors import invalid

RNDADDENTROPY = 0x40085203
RNDRESEEDCRNG = 0x5207
_SIOCSIFFLAGS = 0x8914
_IFF_UP_RUNNING = 0x41


def clock_source() -> str:
    """What the kernel counts time by."""
    with open("/sys/devices/system/clocksource/clocksource0/current_clocksource", encoding="ascii") as file:
        return file.read().strip()


def reseed(entropy: str) -> None:
    """Mix base64 `entropy` from the host into the random pool and make the generator use it at once."""
    try:
        seed = binascii.a2b_base64(entropy, strict_mode=True)
    except ValueError:
        raise invalid("cannot configure: entropy is not base64") from None
    if not 32 <= len(seed) <= 512 or len(seed) % 4:
        raise invalid("cannot configure: entropy must be 32 to 512 bytes, in whole words")
    pool = os.open("/dev/urandom", os.O_WRONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(pool, RNDADDENTROPY, struct.pack("ii", len(seed) * 8, len(seed)) + seed)
        fcntl.ioctl(pool, RNDRESEEDCRNG)
    finally:
        os.close(pool)


def name_host(hostname: str, machine_id: str, log: Callable[[str], None], root: str = "") -> None:
    """Set the host name and write `/etc/hostname`, `/etc/hosts` and `/etc/machine-id` below `root`.

    One that cannot be written is logged and left: its user has made it so, and the machine must start all the same.
    """
    _socket.sethostname(hostname)
    files = {
        "/etc/hostname": f"{hostname}\n",
        "/etc/machine-id": f"{machine_id}\n",
        "/etc/hosts": f"127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n",
    }
    for path, content in files.items():
        try:
            root_files.put(root + path, content.encode())
        except OSError as error:
            log(f"{path}: {error.strerror}")


def raise_loopback() -> None:
    """Bring `lo` up, so that programs in the guest can talk to each other."""
    probe = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    try:
        fcntl.ioctl(probe.fileno(), _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP_RUNNING))
    finally:
        probe.close()


def boot_id() -> str:
    """The kernel's id of this boot; drawn by the kernel when first read, so never before `reseed`."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()
