"""What of a file's attributes travels, and what to say of the rest."""

from __future__ import annotations

from collections.abc import Iterable

from pyro_mcp.protocol.entries import MAX_NAME, MAX_XATTRS, xattr_bytes

LINKED = "a hard link to a symbolic link: it became a link of its own"
PRIVILEGED = "its setuid and setgid bits were removed"
ROOT = "the setgid bit and the extended attributes of the source itself stay behind; what is in it keeps its own"
TIME = "its time lies outside the years 1901 to 2446 and was set to the nearest that fits"
PACKED = "LIBARCHIVE.xattr."
"""How libarchive names attributes; left is what could not be unpacked."""
_EARLIEST, _LATEST = -(1 << 31) * 10**9, ((1 << 34) - (1 << 31)) * 10**9 - 1
_OF_THE_HOST = ("security.selinux", "security.ima", "security.evm")
"""Labels that a host gives to all its files: to name them would be noise."""


def kept_time(mtime_ns: int) -> int:
    """The nearest time that a workspace's file system can hold."""
    return min(max(mtime_ns, _EARLIEST), _LATEST)


def kept_xattrs(
    found: Iterable[tuple[str, bytes]], *, link: bool = False
) -> tuple[tuple[tuple[str, bytes], ...], list[str]]:
    """The attributes that travel, sorted, and why each of the others does not. A symbolic `link` has none of a user."""
    kept, reasons, room = [], [], MAX_XATTRS
    for name, value in sorted(found):
        if name in _OF_THE_HOST:
            continue
        shown = ascii(name)[1:-1][:100]
        if name.startswith(PACKED):
            reasons.append(f"its extended attribute {shown} was left out: its value is no base64")
        elif link or not name.startswith("user.") or name == "user.":
            reasons.append(f"its extended attribute {shown} was left out: only those of a user travel")
        elif len(name.encode("utf-8", "surrogateescape")) > MAX_NAME or xattr_bytes(name, value) > room:
            reasons.append(f"its extended attribute {shown} was left out: they are more than {MAX_XATTRS:,} bytes")
        else:
            room -= xattr_bytes(name, value)
            kept.append((name, value))
    return tuple(kept), reasons
