"""Entries: what is written comes back; whatever is wrong is refused, and no byte of it costs memory."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyro_mcp.protocol.entries import (
    MAX_HEADER,
    MAX_PATH,
    Encoder,
    Entry,
    EntryDecoder,
    EntryError,
    Piece,
    safe_path,
)

TREE: list[tuple[Entry, bytes]] = [
    (Entry("a", "directory", mode=0o755, mtime_ns=5), b""),
    (Entry("a/f", "file", mode=0o4755, mtime_ns=-1, size=5), b"hello"),
    (Entry("a/empty", "file", mode=0o600, xattrs=(("user.a", b"\0\xff"), ("user.\udcff", b""))), b""),
    (Entry("a/sparse", "file", mode=0o600, size=1 << 40, extents=((3, 2), (1 << 39, 1))), b"abc"),
    (Entry("a/hole", "file", size=9, extents=()), b""),
    (Entry("l", "symlink", target="../../etc/passwd"), b""),
    (Entry("h", "hardlink", target="a/f"), b""),
    (Entry("non\udcff", "file", size=100_000, uid=7, gid=8), b"x" * 100_000),
    (Entry("gone", "whiteout"), b""),
    (Entry(".", "root", 0o2770, 7, uid=5, xattrs=(("user.a", b"1"),)), b""),
    (Entry("a", "opaque"), b""),
    (Entry("a", "redirect", target="/b/c"), b""),
]


def encoded(tree: list[tuple[Entry, bytes]]) -> bytes:
    out = bytearray()
    encoder = Encoder(out.extend)
    for entry, data in tree:
        encoder.entry(entry)
        encoder.data(data)
    encoder.finish()
    return bytes(out)


def decoded(data: bytes, step: int = 1 << 30, **limits: int) -> list[tuple[Entry, list[Piece]]]:
    decoder = EntryDecoder(**limits)
    found: list[tuple[Entry, list[Piece]]] = []
    for start in range(0, len(data), step):
        for item in decoder.feed(data[start : start + step]):
            if isinstance(item, Entry):
                found.append((item, []))
            else:
                found[-1][1].append(item)
    decoder.close()
    return found


def raw(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("!I", len(text)) + text + data


@pytest.mark.parametrize("step", [1, 7, 4096, 1 << 20])
def test_comes_back_as_it_was(step: int) -> None:
    found = decoded(encoded(TREE), step)
    assert [entry for entry, _ in found] == [entry for entry, _ in TREE]
    assert [b"".join(piece.data for piece in pieces) for _, pieces in found] == [data for _, data in TREE]
    sparse = next(pieces for entry, pieces in found if entry.path == "a/sparse")
    assert {piece.offset for piece in sparse} <= {3, 4, 1 << 39}


def test_any_cut_is_known() -> None:
    whole = encoded(TREE[:4])
    for length in range(len(whole)):
        with pytest.raises(EntryError):
            decoded(whole[:length])


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_any_flipped_byte_is_known(position: int, flip: int) -> None:
    whole = bytearray(encoded(TREE[:4]))
    whole[position % len(whole)] ^= flip
    with pytest.raises(EntryError):
        decoded(bytes(whole))


@given(st.binary(max_size=300))
def test_noise_gives_a_typed_error(data: bytes) -> None:
    with pytest.raises(EntryError):
        decoded(data)


@pytest.mark.parametrize(
    "path",
    [
        *("", "/", "/a", "a/", "a//b", ".", "..", "a/..", "../a", "a/./b", "a\0b", "\ud800", "x" * 256),
        *("/".join("a" * 257), "a" * 200 + ("/" + "b" * 200) * 20, None, 5, ["a"], b"a"),
    ],
)
def test_refuses_paths_that_are_not_plain(path: Any) -> None:
    with pytest.raises(EntryError):
        safe_path(path)


@pytest.mark.parametrize(
    "path", ["a", "...", "a/..b", "-rf", "new\nline", "\udcff/é", "/".join("a" * 256), "~", "$(id)"]
)
def test_accepts_odd_but_plain_paths(path: str) -> None:
    assert safe_path(path) == path


@pytest.mark.parametrize(
    "header",
    [
        {"path": "a"},
        {"type": "file"},
        {"path": "a", "type": "fifo"},
        {"path": "a", "type": ["file"]},
        {"path": "a", "type": "file", "mode": 0o10000},
        {"path": "a", "type": "file", "mode": True},
        {"path": "a", "type": "file", "mode": 1.0},
        {"path": "a", "type": "file", "size": -1},
        {"path": "a", "type": "file", "size": 1 << 60},
        {"path": "a", "type": "file", "uid": -1},
        {"path": "a", "type": "file", "mtime_ns": 1 << 66},
        {"path": "a", "type": "directory", "size": 1},
        {"path": "a", "type": "directory", "target": "x"},
        {"path": "a", "type": "symlink"},
        {"path": "a", "type": "symlink", "target": "x\0"},
        {"path": "a", "type": "symlink", "target": "x" * (MAX_PATH + 1)},
        {"path": "a", "type": "hardlink", "target": "../x"},
        {"path": "a", "type": "hardlink", "target": "/etc/passwd"},
        {"path": "a", "type": "file", "surprise": 1},
        {"path": "a", "type": "file", "size": 9, "extents": [[0, 10]]},
        {"path": "a", "type": "file", "size": 9, "extents": [[4, 2], [3, 1]]},
        {"path": "a", "type": "file", "size": 9, "extents": [[4, 0]]},
        {"path": "a", "type": "file", "size": 9, "extents": [[4]]},
        {"path": "a", "type": "file", "size": 9, "extents": [[4, "1"]]},
        {"path": "a", "type": "directory", "extents": []},
        {"path": "a", "type": "file", "size": 9999, "extents": [[n * 2, 1] for n in range(1025)]},
        {"path": "a", "type": "file", "xattrs": {"user.a": ""}},
        {"path": "a", "type": "file", "xattrs": [["user.a"]]},
        {"path": "a", "type": "file", "xattrs": [["user.a", 1]]},
        {"path": "a", "type": "file", "xattrs": [["user.a", "no base64"]]},
        {"path": "a", "type": "file", "xattrs": [["user.", ""]]},
        {"path": "a", "type": "file", "xattrs": [["user.a\0", ""]]},
        {"path": "a", "type": "file", "xattrs": [["user." + "a" * 300, ""]]},
        {"path": "a", "type": "file", "xattrs": [["trusted.overlay.opaque", "eQ=="]]},
        {"path": "a", "type": "file", "xattrs": [["security.capability", ""]]},
        {"path": "a", "type": "file", "xattrs": [["user.b", ""], ["user.a", ""]]},
        {"path": "a", "type": "file", "xattrs": [["user.a", ""], ["user.a", ""]]},
        {"path": "a", "type": "file", "xattrs": [["user.a", "AAAA" * 1400]]},
        {"path": "a", "type": "file", "xattrs": [[f"user.{n:03}", ""] for n in range(200)]},
        {"path": "a", "type": "symlink", "target": "x", "xattrs": [["user.a", ""]]},
        {"type": "end", "count": 1, "sha256": ""},
        [],
        b"[" * 60_000,
        b"{" + b'"a":' * 9_000,
        b'{"path":"a","type":"file","size":' + b"9" * 5_000 + b"}",
        b"\xff\xff",
        b"NaN",
    ],
)
def test_refuses_bad_headers(header: Any) -> None:
    with pytest.raises(EntryError):
        list(EntryDecoder().feed(raw(header)))


@pytest.mark.parametrize("length", [0, 1, MAX_HEADER + 1, 0xFFFFFFFF])
def test_refuses_a_header_by_its_length(length: int) -> None:
    with pytest.raises(EntryError):
        list(EntryDecoder().feed(struct.pack("!I", length)))


def test_refuses_bytes_after_the_end() -> None:
    with pytest.raises(EntryError):
        decoded(encoded(TREE) + b"x")


def test_bounds_count_and_bytes() -> None:
    whole = encoded(TREE[:3])
    assert len(decoded(whole, max_entries=3, max_bytes=5)) == 3
    with pytest.raises(EntryError):
        decoded(whole, max_entries=2)
    with pytest.raises(EntryError):
        decoded(whole, max_bytes=4)


def test_an_encoder_refuses_what_no_decoder_takes() -> None:
    encoder = Encoder(lambda _: None)
    with pytest.raises(EntryError):
        encoder.entry(Entry("../a", "file"))
    encoder.entry(Entry("a", "file", size=2))
    with pytest.raises(EntryError):
        encoder.data(b"abc")
    with pytest.raises(EntryError):
        encoder.finish()
    encoder.data(b"ab")
    encoder.finish()
