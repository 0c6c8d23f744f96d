"""All or nothing on disk."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from pyro_mcp.errors import DiskFull, PermissionDenied, PyroError
from pyro_mcp.system import atomic
from pyro_mcp.system.atomic import disk_errors, make_directory, publish_directory, replace_link, write_file


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "file"
    write_file(target, b"old", mode=0o644)
    write_file(target, b"new")
    assert target.read_bytes() == b"new"
    assert target.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("step", ["fsync", "rename"])
def test_a_failed_write_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    target = tmp_path / "file"
    write_file(target, b"old")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic.os, step, fail)
    with pytest.raises(DiskFull), disk_errors("write it"):
        write_file(target, b"new")
    monkeypatch.undo()
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_writers_at_once_never_mix(tmp_path: Path) -> None:
    contents = [bytes([65 + number]) * 100_000 for number in range(4)]
    threads = [threading.Thread(target=write_file, args=(tmp_path / "file", content)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "file").read_bytes() in contents
    assert os.listdir(tmp_path) == ["file"]


def test_a_directory_is_published_and_replaced(tmp_path: Path) -> None:
    for content in ("first", "second"):
        built = tmp_path / "built"
        built.mkdir()
        (built / "file").write_text(content)
        publish_directory(built, tmp_path / "target")
        assert (tmp_path / "target" / "file").read_text() == content
        assert os.listdir(tmp_path) == ["target"]


def test_a_link_is_replaced_in_one_step(tmp_path: Path) -> None:
    for name in ("one", "two"):
        replace_link(tmp_path / "link", name)
        assert os.readlink(tmp_path / "link") == name
    assert os.listdir(tmp_path) == ["link"]


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, DiskFull),
        (errno.EDQUOT, DiskFull),
        (errno.EACCES, PermissionDenied),
        (errno.EROFS, PermissionDenied),
        (errno.EIO, PyroError),
    ],
)
def test_errors_of_the_disk_are_typed(number: int, kind: type[PyroError]) -> None:
    with pytest.raises(PyroError, match=r"cannot keep it: .* \(/where\)") as caught, disk_errors("keep it"):
        raise OSError(number, os.strerror(number), "/where")
    assert type(caught.value) is kind


def test_directories_are_private(tmp_path: Path) -> None:
    assert make_directory(tmp_path / "a").stat().st_mode & 0o777 == 0o700
    assert make_directory(tmp_path / "a") == tmp_path / "a"
