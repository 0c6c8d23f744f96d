"""Place: the agent's files, written over whatever root has put there; nothing waits, nothing follows."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pyro_mcp.guest.boot import root_files

MOST = 4096


def nothing(path: Path) -> None:
    """No file at all."""


def longer(path: Path) -> None:
    path.write_text("x" * 100)


def link(path: Path) -> None:
    path.symlink_to(path.parent / "other")


def dangling(path: Path) -> None:
    path.symlink_to("/nonexistent/at/all")


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    if os.geteuid():
        pytest.skip("devices need root")
    os.mknod(path, 0o600 | 0o020000, os.makedev(1, 3))


@pytest.mark.parametrize("before", [nothing, longer, link, dangling, pipe, device])
@pytest.mark.parametrize("write", [root_files.put, root_files.replace])
def test_whatever_stood_there_the_file_is_written_and_nothing_else(
    tmp_path: Path, before: Callable[[Path], None], write: Callable[[str, bytes], None]
) -> None:
    (tmp_path / "other").write_text("untouched")
    before(tmp_path / "file")
    before(tmp_path / "file.pyro")
    write(str(tmp_path / "file"), b"ours\n")
    assert (tmp_path / "file").is_file()
    assert not (tmp_path / "file").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"ours\n"
    assert (tmp_path / "other").read_text() == "untouched"


@pytest.mark.parametrize("write", [root_files.put, root_files.replace])
def test_a_directory_is_left_and_told(tmp_path: Path, write: Callable[[str, bytes], None]) -> None:
    (tmp_path / "file/in/it").mkdir(parents=True)
    with pytest.raises(OSError):
        write(str(tmp_path / "file"), b"ours")
    assert (tmp_path / "file/in/it").is_dir()
    assert os.listdir(tmp_path) == ["file"]


def test_only_files_of_a_bearable_size_are_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert root_files.read(str(path), MOST) == b""
    path.write_bytes(b"x" * MOST)
    assert root_files.read(str(path), MOST) == b"x" * MOST
    (tmp_path / "link").symlink_to(path)
    assert root_files.read(str(tmp_path / "link"), MOST) == b"x" * MOST
    os.truncate(path, 1 << 40)
    assert root_files.read(str(path), MOST) == b""
    pipe(tmp_path / "pipe")
    assert root_files.read(str(tmp_path / "pipe"), MOST) == b""
    assert root_files.read(str(tmp_path), MOST) == b""
