"""What a caller may give a command to read."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from pyro_mcp.api.run import run_in_vm
from pyro_mcp.errors import InvalidArgument
from pyro_mcp.operations.inputs import as_bytes


@pytest.mark.parametrize(
    ("given", "travels"),
    [
        ("grüße", "grüße".encode()),
        ("", b""),
        (b"\xff", b"\xff"),
        (bytearray(b"ab"), b"ab"),
        (memoryview(b"ab"), b"ab"),
        ([b"a", bytearray(b"b"), memoryview(b"c")], [b"a", b"b", b"c"]),
        ([], []),
    ],
)
def test_bytes_and_text_are_taken(given: Any, travels: Any) -> None:
    assert as_bytes("stdin", given) == travels
    _, streams = run_in_vm.request(("debian:12",), {"command": "cat", "stdin": given})
    assert streams == {"stdin": travels}


def test_pieces_are_taken_as_they_come() -> None:
    assert list(as_bytes("stdin", io.BytesIO(b"a\nb"))) == [b"a\n", b"b"]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (["a", "b"], "piece 1 of it is of type str"),
        ((b"a", 5), "piece 2 of it is of type int"),
        (5, "of type int"),
        (True, "of type bool"),
        (Path("/etc/hostname"), "of type PosixPath"),
        (io.StringIO("a"), "the file is open as text"),
        ("\udc80", "no UTF-8 text"),
    ],
)
def test_anything_else_is_refused_before_the_command_starts(given: Any, why: str) -> None:
    with pytest.raises(InvalidArgument, match=why) as caught:
        run_in_vm.request(("debian:12",), {"command": "cat", "stdin": given})
    assert caught.value.message.startswith("cannot use stdin: ")
    assert "bytes" in (caught.value.hint or "")


def test_a_wrong_piece_that_comes_later_is_refused_then() -> None:
    pieces = iter(as_bytes("stdin", iter([b"a", "b"])))
    assert next(pieces) == b"a"  # type: ignore[comparison-overlap]
    with pytest.raises(InvalidArgument, match="piece 2 of it is of type str"):
        next(pieces)
