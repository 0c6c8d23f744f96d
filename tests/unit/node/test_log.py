"""The node's log: bounded, and never a reason to fail."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyro_mcp.node.log import BoundedLog


@pytest.fixture
def log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Iterator[BoundedLog]:
    kept = [os.dup(number) for number in (1, 2)]
    yield BoundedLog(tmp_path / "node.log", limit=400)
    for number, descriptor in zip((1, 2), kept, strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)


def test_it_keeps_at_most_twice_its_bound(log: BoundedLog, tmp_path: Path) -> None:
    for number in range(100):
        print(f"line {number}", file=log)
    assert (tmp_path / "node.log").read_text().endswith("line 99\n")
    assert all(0 < (tmp_path / name).stat().st_size <= 400 for name in ("node.log", "node.log.1"))


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOSPC])
def test_one_that_cannot_begin_anew_drops_lines_and_goes_on_later(
    log: BoundedLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        for count in range(50):
            print(f"line {count}", file=log)
    assert (tmp_path / "node.log.1").stat().st_size <= 400
    print("back", file=log)
    assert (tmp_path / "node.log").read_text().endswith("back\n")
