"""Devices are found by what they say, past those that say nothing."""

from __future__ import annotations

from pathlib import Path

from pyro_mcp.guest.boot.sysfs import find_device


def test_a_device_is_found_by_its_attribute(tmp_path: Path) -> None:
    for name, serial in (("vda", "environment"), ("vdb", " scratch\n"), ("vdc", b"\xff\xfe".decode("latin-1"))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "serial").write_text(serial, encoding="latin-1")
    (tmp_path / "loop0").mkdir()
    assert find_device(str(tmp_path), "serial", "scratch") == "/dev/vdb"
    assert find_device(str(tmp_path), "serial", "environment") == "/dev/vda"
    assert find_device(str(tmp_path), "serial", "seed") is None
    assert find_device(str(tmp_path), "size", "scratch") is None
