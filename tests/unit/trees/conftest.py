"""Trees on disk, sequences in memory, and how to compare them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

import pytest

from pyro_mcp.protocol.entries import Entry, Piece


def file(path: str, data: bytes = b"", mode: int = 0o644) -> list[Entry | Piece]:
    """A file's entry and its bytes."""
    return [Entry(path, "file", mode, 1_000_000_007, len(data)), *([Piece(0, data)] if data else [])]


def contents(items: Iterable[Entry | Piece]) -> dict[str, tuple[str, int, bytes | str]]:
    """(type, mode, data or target) by path."""
    found: dict[str, tuple[str, int, bytes | str]] = {}
    last = ""
    for item in items:
        if isinstance(item, Entry):
            last = item.path
            assert last not in found
            value: bytes | str = item.target if item.type in ("symlink", "hardlink") else bytes(item.size)
            found[last] = (item.type, item.mode, value)
        else:
            kind, mode, data = found[last]
            assert isinstance(data, bytes)
            assert item.offset + len(item.data) <= len(data)
            found[last] = (kind, mode, data[: item.offset] + item.data + data[item.offset + len(item.data) :])
    return found


def snapshot(root: Path) -> dict[str, tuple[object, ...]]:
    """Everything about a tree on disk that must not change by accident."""
    found: dict[str, tuple[object, ...]] = {}
    for base, directories, names in os.walk(root):
        for name in [*directories, *names]:
            path = os.path.join(base, name)
            about = os.lstat(path)
            key = os.path.relpath(path, root)
            if stat.S_ISLNK(about.st_mode):
                found[key] = ("link", os.readlink(path))
            elif stat.S_ISDIR(about.st_mode):
                found[key] = ("directory", about.st_mode & 0o7777)
            else:
                found[key] = ("file", about.st_mode & 0o7777, Path(path).read_bytes(), about.st_nlink)
    return found


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A place that nothing may read from or write to."""
    place = tmp_path / "outside"
    place.mkdir()
    (place / "secret").write_bytes(b"canary")
    return place
