"""overlay: what the kernel's overlay writes down, as both sides read it: the guest on its own disk, the host on a
stopped machine's."""

from __future__ import annotations

_HANDLE_AT, _INODE = 21, 1
"""Where in an overlay's file handle the lower file system's own begins, and the type of one that begins so."""


def inode_of(name: bytes) -> int:
    """The inode below that an entry of the index stands for; 0 when it stands for none."""
    try:
        handle = bytes.fromhex(name.decode("ascii"))
    except ValueError:
        return 0
    if len(handle) < _HANDLE_AT + 4 or handle[4] != _INODE:
        return 0
    return int.from_bytes(handle[_HANDLE_AT : _HANDLE_AT + 4], "little")
