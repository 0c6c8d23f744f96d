import os
import tempfile
from pathlib import Path

import pytest

from pyro_mcp.system.sparse import copy_sparse, digest_sparse, extents


@pytest.fixture
def holey(tmp_path: Path) -> Path:
    path = tmp_path / "holey"
    with path.open("wb") as file:
        os.truncate(file.fileno(), 1 << 30)
        for offset in (0, 5 << 20, (1 << 30) - 4096):
            os.pwrite(file.fileno(), os.urandom(4096), offset)
    return path


def test_a_copy_has_the_same_content_and_stays_sparse(holey: Path, tmp_path: Path) -> None:
    copy_sparse(holey, tmp_path / "copy", size=2 << 30)
    copy = (tmp_path / "copy").stat()
    assert copy.st_size == 2 << 30
    assert copy.st_blocks * 512 < 1 << 20
    with holey.open("rb") as one, (tmp_path / "copy").open("rb") as two:
        for offset, length in extents(one.fileno()):
            assert os.pread(one.fileno(), length, offset) == os.pread(two.fileno(), length, offset)


def test_a_copy_to_another_file_system_works(holey: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        copy = Path(other) / "copy"
        copy_sparse(holey, copy)
        assert copy.stat().st_dev != holey.stat().st_dev
        assert digest_sparse(copy) == digest_sparse(holey)
        assert copy.stat().st_blocks * 512 < 1 << 20


def test_a_copy_never_overwrites(holey: Path, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("mine")
    with pytest.raises(FileExistsError):
        copy_sparse(holey, tmp_path / "there")
    assert (tmp_path / "there").read_text() == "mine"


def test_the_digest_sees_one_flipped_bit_and_a_truncation(holey: Path) -> None:
    before = digest_sparse(holey)
    assert digest_sparse(holey) == before
    with holey.open("r+b") as file:
        byte = os.pread(file.fileno(), 1, 5 << 20)
        os.pwrite(file.fileno(), bytes((byte[0] ^ 1,)), 5 << 20)
    flipped = digest_sparse(holey)
    assert flipped != before
    os.truncate(holey, (1 << 30) - 8192)
    assert digest_sparse(holey) not in (before, flipped)


def test_an_empty_file_and_one_big_hole_have_no_extents(tmp_path: Path) -> None:
    for size in (0, 1 << 40):
        path = tmp_path / str(size)
        with path.open("wb") as file:
            os.truncate(file.fileno(), size)
        with path.open("rb") as file:
            assert list(extents(file.fileno())) == []
