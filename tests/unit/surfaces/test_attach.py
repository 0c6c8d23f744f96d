"""What `shell attach` knows of the terminal it is run in."""

from __future__ import annotations

import os
import termios

import pytest

from pyro_mcp.surfaces.cli.attach import _size


@pytest.mark.parametrize(
    ("rows", "cols", "taken"),
    [(50, 132, (50, 132)), (0, 0, (24, 80)), (0, 132, (24, 80)), (1, 1, (1, 1)), (5000, 5000, (1000, 1000))],
)
def test_a_terminal_that_does_not_know_its_size_gets_the_usual_one(
    rows: int, cols: int, taken: tuple[int, int]
) -> None:
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (rows, cols))
    size = _size(theirs)
    os.close(ours)
    os.close(theirs)
    assert (size["rows"], size["cols"]) == taken
