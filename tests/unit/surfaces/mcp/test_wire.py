"""What a host may write on a line, and what it is answered when it may not."""

from __future__ import annotations

import json
import os
import threading
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyro_mcp.surfaces.mcp.wire import (
    AHEAD_MAX,
    RUNNING_MAX,
    BoundedLines,
    HostInput,
    HostOutput,
    LineRefused,
    encode,
    parse,
)

CALL = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "vm_run"}}


def refusals(line: bytes, limit: int = 1000) -> list[tuple[Any, int]]:
    """Ids and codes of what is answered to `line`, which is not let in; the next line is."""
    sink = BytesIO()
    after = encode({"jsonrpc": "2.0", "id": "after", "method": "ping"})
    requests = HostInput(BoundedLines(BytesIO(line + b"\n" + after), limit), HostOutput(sink))
    found = requests.next()
    assert found is not None
    assert found["id"] == "after"
    answers = [json.loads(one) for one in sink.getvalue().splitlines()]
    assert all(one["error"]["message"].startswith("cannot ") for one in answers)
    return [(one["id"], one["error"]["code"]) for one in answers]


@pytest.mark.parametrize(
    ("line", "request_id", "code"),
    [
        (rb'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"x":"a\ud800b"}}', 7, -32700),
        (rb'{"method":"tools/call","params":{"x":"\udc00"},"jsonrpc":"2.0","id":"last"}', "last", -32700),
        (b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"x":"a\xffb"}}', 7, -32700),
        (b'{"jsonrpc":"2.0","id":7,"method":"ping","params":{"x":NaN}}', 7, -32700),
        (b'{"jsonrpc":"2.0","id":7,"method":"ping","params":{"x":1e999}}', 7, -32700),
        (b'{"jsonrpc":"2.0","id":7,"method":"ping","params":{"x":' + b"9" * 9_000 + b"}}", 7, -32700),
        (rb'{"jsonrpc":"2.0","id":"\ud800","method":"ping"}', None, -32700),
        (b"{", None, -32700),
        (b"\xff\xfe", None, -32700),
        (b"null", None, -32600),
        (b"[]", None, -32600),
        (b'{"jsonrpc":"1.0","id":7,"method":"ping"}', 7, -32600),
        (b'{"jsonrpc":"2.0","id":7}', 7, -32600),
        (b'{"jsonrpc":"2.0","id":7,"method":5}', 7, -32600),
        (b'{"jsonrpc":"2.0","id":7,"method":"ping","params":[1]}', 7, -32602),
        (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', None, -32600),
        (b'{"jsonrpc":"2.0","id":true,"method":"ping"}', None, -32600),
        (b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}', None, -32600),
        (
            b'{"jsonrpc":"2.0","id":7,"method":"ping","params":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
            7,
            -32600,
        ),
        (b"[" * 100_000, None, -32600),
    ],
)
def test_what_cannot_be_let_in_is_answered_by_its_id(line: bytes, request_id: Any, code: int) -> None:
    assert refusals(line, limit=1_000_000) == [(request_id, code)]


@pytest.mark.parametrize(
    ("line", "request_id"),
    [
        (b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"x":"%s"}}', 7),
        (b'{"jsonrpc": "2.0", "method": "tools/call", "id": "a b", "params": {"x": "%s"}}', "a b"),
        (b'{"method":"tools/call","params":{"x":"%s"},"jsonrpc":"2.0","id":-7}', -7),
        (b'{"params":{"x":"%s"},"id":"seven","method":"tools/call","jsonrpc":"2.0"} ', "seven"),
        (b'{"jsonrpc":"2.0","method":"tools/call","params":{"id":7,"x":"%s","id":8}}', None),
        (b"%s", None),
    ],
)
def test_a_line_that_is_too_long_is_swallowed_and_answered(line: bytes, request_id: Any) -> None:
    assert refusals(line % (b"x" * 100_000), limit=5_000) == [(request_id, -32600)]


def test_a_batch_is_answered_one_by_one() -> None:
    batch = json.dumps([CALL, {**CALL, "id": "b"}, {"jsonrpc": "2.0", "method": "note"}, 5])
    assert refusals(batch.encode()) == [(7, -32600), ("b", -32600)]


@given(
    st.binary(max_size=60) | st.text(max_size=60).map(lambda text: json.dumps({"jsonrpc": "2.0", "x": text}).encode())
)
def test_whatever_comes_is_a_message_or_a_refusal(line: bytes) -> None:
    try:
        parse(line)
    except LineRefused as refusal:
        for one in refusal.lines().splitlines():
            assert json.loads(one)["error"]["code"] in {-32700, -32600, -32602}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(st.dictionaries(st.text(), VALUES), st.booleans())
def test_what_is_let_in_is_what_was_sent(params: dict[str, Any], as_ascii: bool) -> None:
    message = {**CALL, "params": params}
    assert parse(json.dumps(message, ensure_ascii=as_ascii).encode("utf-8")) == message


def running(*messages: dict[str, Any]) -> tuple[HostInput, BytesIO]:
    sink = BytesIO()
    source = BytesIO(b"".join(encode(one) for one in messages))
    return HostInput(BoundedLines(source), HostOutput(sink)), sink


def test_an_id_may_be_used_again_once_it_is_answered() -> None:
    requests, sink = running(CALL, CALL, CALL)
    assert requests.next() == CALL
    requests.answer(7, b"")
    assert requests.next() == CALL
    assert requests.next() is None, "the third came while the second was running"
    assert json.loads(sink.getvalue())["id"] == 7
    assert requests.running == 1


def test_a_cancelled_request_is_not_waited_for() -> None:
    requests, _ = running(
        CALL, {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}}, CALL
    )
    assert [requests.next() for _ in range(3)][2] == CALL
    assert requests.running == 1


def test_more_than_can_run_is_refused_and_not_kept() -> None:
    requests, sink = running(*({**CALL, "id": number} for number in range(RUNNING_MAX + 3)))
    for _ in range(RUNNING_MAX):
        assert requests.next() is not None
    assert requests.next() is None
    refused = [json.loads(line) for line in sink.getvalue().splitlines()]
    assert [one["id"] for one in refused] == [RUNNING_MAX, RUNNING_MAX + 1, RUNNING_MAX + 2]
    assert {one["error"]["code"] for one in refused} == {-32000}


def test_a_host_that_does_not_read_is_not_read_from() -> None:
    requests, _ = running(*({**CALL, "id": number} for number in range(AHEAD_MAX + 1)))
    for _ in range(AHEAD_MAX):
        requests.next()
    reads, writes = os.pipe()
    with os.fdopen(reads, "rb") as pipe, os.fdopen(writes, "wb", buffering=0) as end:
        requests._answers._sink = end
        flood = threading.Thread(target=requests.answer, args=(0, b"x" * 1_000_000))
        flood.start()
        while not requests._answers._writing.locked():
            pass
        asked = threading.Thread(target=requests.next)
        asked.start()
        asked.join(0.2)
        assert asked.is_alive()
        left = 1_000_000
        while left:
            left -= len(pipe.read1(left))
        asked.join(30)
        flood.join(30)
        assert not asked.is_alive()
