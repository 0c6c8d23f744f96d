"""Blank disks: made once, by rename, and never without their content."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pyro_mcp.machines.disks import blank_device, new_scratch


def test_a_blank_disk_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[tuple[str, int]] = []
    flush, rename = os.fsync, os.rename

    def noted_flush(descriptor: int) -> None:
        steps.append(("flush", os.fstat(descriptor).st_ino))
        flush(descriptor)

    def noted_rename(source: Path, target: Path) -> None:
        steps.append(("rename", os.stat(source).st_ino))
        rename(source, target)

    monkeypatch.setattr(os, "fsync", noted_flush)
    monkeypatch.setattr(os, "rename", noted_rename)
    new_scratch(tmp_path, tmp_path / "one", 64, device_bytes=1 << 30)
    new_scratch(tmp_path, tmp_path / "two", 64, device_bytes=1 << 30)
    inode = (tmp_path / "blank" / "scratch-64.ext4").stat().st_ino
    assert steps == [("flush", inode), ("rename", inode)]
    assert _at(tmp_path / "one", 1080, 2) == b"\x53\xef"
    assert (tmp_path / "two").stat().st_size == 1 << 30
    assert blank_device(tmp_path, 1 << 20).stat().st_size == 1 << 20


def _at(path: Path, offset: int, count: int) -> bytes:
    with path.open("rb") as file:
        return os.pread(file.fileno(), count, offset)
