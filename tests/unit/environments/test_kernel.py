"""The ELF kernel out of a bzImage, and what is done where there is none."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest

from pyro_mcp.environments import kernel
from pyro_mcp.environments.kernel import unpack_kernel


def bz_image(payload: bytes) -> bytes:
    header = bytearray(512 * 3)
    header[0x1F1] = 2
    header[0x202:0x206] = b"HdrS"
    body = payload + b"\0\0\0\0"
    struct.pack_into("<II", header, 0x248, 16, len(body))
    return bytes(header) + bytes(16) + body + b"trailer"


def lz4(data: bytes) -> bytes:
    return subprocess.run(["lz4", "-l", "-c", "-q"], input=data, capture_output=True, check=True).stdout


def test_the_payload_is_unpacked(tmp_path: Path) -> None:
    elf = b"\x7fELF" + b"kernel" * 1000
    (tmp_path / "vmlinuz").write_bytes(bz_image(lz4(elf)))
    unpack_kernel(tmp_path / "vmlinuz", tmp_path / "kernel")
    assert (tmp_path / "kernel").read_bytes() == elf
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kernel", "vmlinuz"]


@pytest.mark.parametrize("image", [b"", b"MZ" + bytes(4096), bz_image(b"\x1f\x8b gzip"), bz_image(b"")])
def test_anything_else_is_kept_as_it_is(tmp_path: Path, image: bytes) -> None:
    (tmp_path / "vmlinuz").write_bytes(image)
    unpack_kernel(tmp_path / "vmlinuz", tmp_path / "kernel")
    assert (tmp_path / "kernel").read_bytes() == image


def test_a_payload_that_is_no_elf_is_not_booted(tmp_path: Path) -> None:
    image = bz_image(lz4(b"something else"))
    (tmp_path / "vmlinuz").write_bytes(image)
    unpack_kernel(tmp_path / "vmlinuz", tmp_path / "kernel")
    assert (tmp_path / "kernel").read_bytes() == image


def test_without_lz4_the_packed_kernel_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = bz_image(lz4(b"\x7fELF"))
    (tmp_path / "vmlinuz").write_bytes(image)
    monkeypatch.setattr(kernel, "find_program", lambda name: None)
    unpack_kernel(tmp_path / "vmlinuz", tmp_path / "kernel")
    assert (tmp_path / "kernel").read_bytes() == image
