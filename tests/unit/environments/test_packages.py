"""What is done to Debian's files on their way into the runtime."""

from __future__ import annotations

from pyro_mcp.environments.packages import unsigned

MARK = b"~Module signature appended~\n"


def test_a_driver_loses_its_signature_and_nothing_else() -> None:
    body, signature = b"\x7fELF and so on", b"0\x82\x01signature"
    header = bytes(8) + len(signature).to_bytes(4, "big")
    assert unsigned(body + signature + header + MARK) == body


def test_a_driver_without_one_is_left_alone() -> None:
    body = b"\x7fELF speaks of " + MARK + b"somewhere inside"
    assert unsigned(body) == body
    assert unsigned(b"") == b""


def test_a_signature_longer_than_its_driver_is_no_signature() -> None:
    body = b"\x7fELF" + bytes(8) + (1000).to_bytes(4, "big") + MARK
    assert unsigned(body) == body
