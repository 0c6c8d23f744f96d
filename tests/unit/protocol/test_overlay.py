"""What an overlay writes down, and what a hostile guest may write in its place."""

from __future__ import annotations

import pytest

from pyro_mcp.protocol.overlay import inode_of

TAKEN = b"00fb1d0001" + b"11" * 16 + b"2a000000" + b"00000000"
"""As kernel 6.1 names the index entry of inode 42 of an ext4."""


def test_an_entry_of_the_index_names_an_inode() -> None:
    assert inode_of(TAKEN) == 42


@pytest.mark.parametrize(
    "name", [b"", b"#1a", b"00fb", b"\xff" * 58, TAKEN[:-18], TAKEN.replace(b"0001", b"0081", 1), b"zz" * 29]
)
def test_what_is_no_entry_stands_for_none(name: bytes) -> None:
    assert inode_of(name) == 0
