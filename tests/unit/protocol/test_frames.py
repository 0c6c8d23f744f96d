"""The decoder against every kind of byte string."""

from __future__ import annotations

import struct
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyro_mcp.protocol.frames import (
    CAPACITY,
    HEADER,
    MAX_DATA,
    MAX_NOISE,
    PREAMBLE,
    Frame,
    FrameDecoder,
    FrameError,
    FrameKind,
    encode_json,
)

from .conftest import frame

CONTROL = 64 * 1024
controls = st.sampled_from([kind for kind in FrameKind if kind is not FrameKind.DATA])
frames = st.one_of(
    st.builds(Frame, controls, st.integers(0, 2**32 - 1), st.binary(max_size=300), st.just(0)),
    st.builds(Frame, st.just(FrameKind.DATA), st.integers(0, 2**32 - 1), st.binary(max_size=300), st.integers(0, 255)),
    st.builds(Frame, controls, st.just(1), st.just(b"c" * CONTROL), st.just(0)),
    st.builds(Frame, st.just(FrameKind.DATA), st.just(1), st.just(b"d" * (MAX_DATA - 1)), st.just(1)),
)


def wire(value: Frame) -> bytes:
    tag = bytes((value.tag,)) if value.kind is FrameKind.DATA else b""
    return frame(value.kind, value.stream, tag + value.payload)


def synced(max_control: int = CONTROL) -> FrameDecoder:
    decoder = FrameDecoder(max_control=max_control)
    decoder.feed(PREAMBLE)
    return decoder


@settings(deadline=None)
@given(noise=st.binary(max_size=200), sent=st.lists(frames, max_size=8), cuts=st.lists(st.integers(1, 70000)))
def test_frames_come_out_as_they_went_in_however_they_are_cut(noise: bytes, sent: list[Frame], cuts: list[int]) -> None:
    if PREAMBLE in noise + PREAMBLE[:-1]:
        return
    data = noise + PREAMBLE + b"".join(map(wire, sent))
    decoder = FrameDecoder(max_control=CONTROL)
    got: list[Frame] = []
    for cut in [*cuts, len(data)]:
        got += decoder.feed(data[:cut])
        data = data[cut:]
    got += decoder.feed(data)
    assert got == sent
    assert not decoder.partial


@settings(deadline=None, max_examples=300)
@given(data=st.binary(max_size=4000))
def test_arbitrary_bytes_give_frames_or_an_error(data: bytes) -> None:
    decoder = synced()
    try:
        for found in decoder.feed(data):
            assert len(found.payload) <= max(CONTROL, MAX_DATA)
            try:
                assert isinstance(found.json(), dict)
            except FrameError:
                pass
    except FrameError:
        pass
    assert len(decoder.space()) > 0


@settings(deadline=None)
@given(kind=st.integers(0, 255), length=st.integers(0, 2**32 - 1))
def test_a_length_is_refused_before_it_is_awaited(kind: int, length: int) -> None:
    decoder = synced()
    header = HEADER.pack(length, 1, kind)
    cap = MAX_DATA if kind == FrameKind.DATA else CONTROL
    if kind not in set(FrameKind) or length > cap:
        with pytest.raises(FrameError):
            decoder.feed(header)
    elif length:
        assert decoder.feed(header) == []
        assert decoder.partial


def test_a_claim_of_four_gigabytes_costs_no_memory() -> None:
    decoder = synced(max_control=1 << 20)
    tracemalloc.start()
    with pytest.raises(FrameError, match="exceeds the cap"):
        decoder.feed(struct.pack("!IIB", 0xFFFFFFFF, 1, FrameKind.DATA))
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()


def test_a_large_control_frame_gets_room_only_for_its_time() -> None:
    decoder = synced(max_control=1 << 20)
    large = Frame(FrameKind.EVENT, 1, b"e" * (1 << 20))
    assert decoder.feed(wire(large) + wire(large)[:-1]) == [large]
    assert decoder.feed(wire(large)[-1:]) == [large]
    assert len(decoder.space()) == CAPACITY


def test_data_needs_a_tag() -> None:
    with pytest.raises(FrameError, match="tag"):
        synced().feed(frame(FrameKind.DATA, 1))


def test_noise_without_a_preamble_is_bounded() -> None:
    decoder = FrameDecoder(max_control=CONTROL)
    with pytest.raises(FrameError, match="does not speak"):
        decoder.feed(b"\0" * (MAX_NOISE + 65536))


def test_a_preamble_in_pieces_after_noise_is_found() -> None:
    decoder = FrameDecoder(max_control=CONTROL)
    for byte in b"half a frame" + PREAMBLE[:5] + PREAMBLE + frame(FrameKind.PING):
        got = decoder.feed(bytes((byte,)))
    assert got == [Frame(FrameKind.PING, 0)]


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"1",
        b"null",
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":-Infinity}',
        b'{"a":1',
        b"\xff\xfe{}",
        b'{"a":"\xed\xa0\x80"}',
        b"\xef\xbb\xbf{}",
        b"[" * 60000,
        b'{"a":' * 10000 + b"1" + b"}" * 10000,
        b'{"a":' + b"9" * 60000 + b"}",
        b'{"a":1}{"b":2}',
    ],
)
def test_json_that_is_not_an_object_is_refused(payload: bytes) -> None:
    with pytest.raises(FrameError):
        Frame(FrameKind.EVENT, 1, payload).json()


@given(st.dictionaries(st.text(), st.text(alphabet=st.characters()) | st.integers() | st.none() | st.booleans()))
def test_json_round_trips_surrogates_included(value: dict[str, object]) -> None:
    assert Frame(FrameKind.EVENT, 1, encode_json(value)).json() == value
