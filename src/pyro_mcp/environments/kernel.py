"""A kernel in the form that boots fastest: the ELF image out of Debian's compressed `vmlinuz`.

QEMU takes either form, but a guest that unpacks its own kernel under emulation takes 0.3 s longer; Firecracker takes
only the ELF.
"""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

from pyro_mcp.system.process import find_program, run

_ELF = b"\x7fELF"
_LZ4_LEGACY = b"\x02\x21\x4c\x18"
_MAGIC = 0x202
_SETUP_SECTORS = 0x1F1
_PAYLOAD = 0x248
"""Offset and length of the payload, by the x86 boot protocol 2.08 and later."""


def unpack_kernel(packed: Path, target: Path) -> None:
    """Write the ELF kernel inside `packed` to `target`; a kernel that holds none we can unpack is copied as it is."""
    payload = _lz4_payload(packed.read_bytes())
    if payload is None or find_program("lz4") is None:
        shutil.copyfile(packed, target)
        return
    compressed = target.with_name(f".{target.name}.lz4")
    try:
        compressed.write_bytes(payload)
        run(["lz4", "-d", "-q", "-f", str(compressed), str(target)], timeout=60.0)
    finally:
        compressed.unlink(missing_ok=True)
    with open(target, "rb") as file:
        found = file.read(4)
    if found != _ELF:
        shutil.copyfile(packed, target)


def _lz4_payload(image: bytes) -> bytes | None:
    """The LZ4 stream in a bzImage, without the four bytes of size that follow it."""
    if image[_MAGIC : _MAGIC + 4] != b"HdrS":
        return None
    offset, length = struct.unpack_from("<II", image, _PAYLOAD)
    begin = (image[_SETUP_SECTORS] + 1) * 512 + offset
    payload = image[begin : begin + length - 4]
    return payload if payload.startswith(_LZ4_LEGACY) else None
