"""Secrets are overwritten in files, in place, wherever they stand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pyro_mcp.engine.secrets import scrub
from pyro_mcp.engine.secrets.redact import Masks
from pyro_mcp.engine.secrets.scrub import scrub_file, scrub_tree

VALUE = b"s3cr3t-t0ken"
MASKS = Masks.of([VALUE])


def test_it_is_overwritten_and_nothing_moves(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a " + VALUE + b" b \0\xff" + VALUE)
    assert scrub_file(MASKS, path) == 2
    assert path.read_bytes() == b"a " + b"*" * 12 + b" b \0\xff" + b"*" * 12
    assert scrub_file(MASKS, path) == 0


@pytest.mark.parametrize("at", [0, 1, 4, 5, 10, 11, 12, 15, 16, 100])
def test_it_is_found_across_pieces(at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrub, "PIECE", 16)
    path = tmp_path / "file"
    path.write_bytes(b"x" * at + VALUE + b"y" * 20 + VALUE)
    assert scrub_file(MASKS, path) == 2
    assert path.read_bytes() == b"x" * at + b"*" * 12 + b"y" * 20 + b"*" * 12


def test_overlapping_secrets_leave_no_part(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"-abcdefgh-")
    scrub_file(Masks.of([b"abcdef", b"efgh"]), path)
    assert path.read_bytes() == b"-********-"


def test_a_hole_stays_one(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.seek(1 << 30)
        file.write(VALUE)
    before = path.stat().st_blocks
    assert scrub_file(MASKS, path) == 1
    assert path.stat().st_blocks == before
    assert path.stat().st_size == (1 << 30) + len(VALUE)


def test_a_tree_keeps_its_modes_and_follows_no_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(VALUE)
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    for name, mode in (("sub/locked", 0o400), ("run", 0o755), ("clean", 0o644)):
        (tree / name).write_bytes(b"nothing" if name == "clean" else VALUE)
        (tree / name).chmod(mode)
    (tree / "link").symlink_to(outside)
    os.mkfifo(tree / "pipe")
    assert sorted(scrub_tree(MASKS, tree)) == ["run", "sub/locked"]
    assert (tree / "sub/locked").read_bytes() == (tree / "run").read_bytes() == b"*" * 12
    assert (tree / "sub/locked").stat().st_mode & 0o777 == 0o400
    assert (tree / "run").stat().st_mode & 0o777 == 0o755
    assert outside.read_bytes() == VALUE


def test_without_secrets_nothing_is_opened(tmp_path: Path) -> None:
    assert scrub_tree(Masks(), tmp_path / "absent") == []
    assert scrub_file(Masks(), tmp_path / "absent") == 0
