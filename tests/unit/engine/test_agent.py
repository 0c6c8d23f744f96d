"""Asking an agent that lies, stalls, leaves or refuses."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from agentlab import Scripted

from pyro_mcp.engine import agent as agent_module
from pyro_mcp.engine import cancel
from pyro_mcp.engine.files.files import list_files, read_file, write_file
from pyro_mcp.errors import Cancelled, Conflict, MachineFailed, NotFound, ProtocolError
from pyro_mcp.operations.call import Call
from pyro_mcp.protocol.channel import ChannelClosed, Stream


@dataclass(frozen=True)
class Number:
    number: int


def refuse(code: str) -> object:
    def handler(stream: Stream) -> None:
        stream.error({"code": code, "message": "cannot do it: it is so", "hint": "Do not."})

    return handler


def test_a_refusal_is_the_agents_own(scripted: Scripted) -> None:
    place = scripted(refuse("not_found"))  # type: ignore[arg-type]
    with pytest.raises(NotFound, match=r"cannot do it: it is so\. Do not\."):
        place.agent.request(Call(None), "file_read", {}, Number)


@pytest.mark.parametrize("answer", [{}, {"number": "1"}, {"number": None}, {"number": True}, {"number": 1.5}])
def test_an_answer_of_the_wrong_form_is_refused(scripted: Scripted, answer: dict[str, object]) -> None:
    place = scripted(lambda stream: stream.result(answer))
    with pytest.raises(ProtocolError, match="cannot read the file: the agent's answer is of no use"):
        place.agent.request(Call(None), "file_read", {}, Number)


@pytest.mark.parametrize(
    ("verb", "told"),
    [("tree_pack", "export from /workspace"), ("shell_open", "open the shell"), ("changes", "compare")],
)
def test_a_machine_that_goes_away_is_told(scripted: Scripted, verb: str, told: str) -> None:
    def handler(stream: Stream) -> None:
        place.machine.channel.close("gone")

    place = scripted(handler)
    with pytest.raises(MachineFailed, match=f"cannot {told}.*: the machine .* is gone"):
        place.agent.request(Call(None), verb, {}, Number)


def test_silence_of_an_agent_that_lives_ends_late(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_module, "SILENCE_SECONDS", 0.05)
    monkeypatch.setattr(agent_module, "PATIENCE_SECONDS", 0.2)
    over = threading.Event()
    place = scripted(lambda stream: over.wait(30) and None)
    with pytest.raises(MachineFailed, match="is alive and has not answered within 0"):
        place.agent.request(Call(None), "file_read", {}, Number)
    over.set()
    assert not place.machine.channel.closed


def test_an_agent_that_is_silent_and_lives_is_waited_for(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_module, "SILENCE_SECONDS", 0.02)
    place = scripted(lambda stream: time.sleep(0.5) or stream.result({"number": 4}))
    assert place.agent.request(Call(None), "file_read", {}, Number).number == 4


def test_silence_of_an_agent_without_a_sign_of_life_ends(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_module, "SILENCE_SECONDS", 0.05)
    monkeypatch.setattr(cancel, "PONG_SECONDS", 0.05)
    over, watched = threading.Event(), threading.Event()

    def stuck(stream: Stream) -> None:
        # The reader itself, which answers pings, comes upon the message and stays there.
        stream.watch(lambda: over.wait(30) and None)
        watched.set()
        over.wait(30)

    def pieces() -> Iterator[bytes]:
        watched.wait(30)
        yield b"x"

    place = scripted(stuck)
    with pytest.raises(MachineFailed, match="stopped answering"):
        place.agent.request(Call(None), "file_read", {}, Number, send=pieces())
    over.set()


def test_an_agent_that_takes_nothing_ends_a_large_upload(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_module, "SILENCE_SECONDS", 0.05)
    monkeypatch.setattr(agent_module, "PATIENCE_SECONDS", 0.2)
    over = threading.Event()
    place = scripted(lambda stream: over.wait(10) and None)
    with pytest.raises(MachineFailed, match="has not answered"):
        place.agent.request(Call(None), "file_write", {}, Number, send=bytes(8 << 20))
    over.set()


def test_a_slow_upload_is_not_silence(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_module, "SILENCE_SECONDS", 1.0)

    def handler(stream: Stream) -> None:
        count = 0
        while (message := stream.receive(10)).__class__.__name__ == "Data":
            count += len(message.data)  # type: ignore[union-attr]
        stream.result({"number": count})

    def pieces() -> Iterator[bytes]:
        for _ in range(6):
            time.sleep(0.2)
            yield b"x" * 100

    assert scripted(handler).agent.request(Call(None), "tree_unpack", {}, Number, send=pieces()).number == 600


def test_what_goes_wrong_while_sending_is_the_error(scripted: Scripted) -> None:
    def handler(stream: Stream) -> None:
        cancelled = threading.Event()
        stream.on_cancel(cancelled.set)
        assert cancelled.wait(30)
        stream.error({"code": "cancelled", "message": "cannot unpack: it was cancelled"})

    def pieces() -> Iterator[bytes]:
        yield b"x"
        raise Conflict("cannot read the seed: it changed")

    with pytest.raises(Conflict, match="it changed"):
        scripted(handler).agent.request(Call(None), "tree_unpack", {}, Number, send=pieces())


def test_an_early_refusal_ends_the_upload(scripted: Scripted) -> None:
    ended = threading.Event()

    def pieces() -> Iterator[bytes]:
        try:
            while True:
                yield bytes(1 << 16)
        finally:
            ended.set()

    place = scripted(refuse("conflict"))  # type: ignore[arg-type]
    with pytest.raises(Conflict):
        place.agent.request(Call(None), "tree_unpack", {}, Number, send=pieces())
    assert ended.wait(5)


def test_a_cancelled_caller_ends_the_request(scripted: Scripted) -> None:
    begun = threading.Event()

    def handler(stream: Stream) -> None:
        told = threading.Event()
        stream.on_cancel(told.set)
        begun.set()
        told.wait(10)
        try:
            stream.error({"code": "cancelled", "message": "cannot go on: it was cancelled"})
        except ChannelClosed:
            pass

    place = scripted(handler)
    call: Call[None] = Call(None)
    threading.Thread(target=lambda: begun.wait(10) and call.cancel(), daemon=True).start()
    with pytest.raises(Cancelled):
        place.agent.request(call, "file_search", {}, Number)


def test_more_data_than_asked_for_is_refused(scripted: Scripted) -> None:
    def handler(stream: Stream) -> None:
        stream.send(b"x" * 1000, 1)
        stream.result({"path": "/workspace/a", "size_bytes": 1000, "truncated": False, "binary": False})

    with pytest.raises(ProtocolError, match="more than was asked for"):
        read_file(Call(None), scripted(handler), "a", max_bytes=10)


def test_a_file_that_is_called_text_and_is_not_counts_as_binary(scripted: Scripted) -> None:
    def handler(stream: Stream) -> None:
        stream.send(b"\xff\xfe", 1)
        stream.result({"path": "/workspace/a", "size_bytes": 2, "truncated": False, "binary": False})

    said = read_file(Call(None), scripted(handler), "a", max_bytes=10)
    assert (said.binary, said.content) == (True, "")


@pytest.mark.parametrize(
    "entry",
    [
        {"path": 1, "artifact_type": "file"},
        {"path": "/workspace/a", "artifact_type": "door"},
        {"path": "/workspace/a", "artifact_type": "file", "size_bytes": "big"},
        "entry",
    ],
)
def test_a_lying_listing_is_refused(scripted: Scripted, entry: object) -> None:
    place = scripted(lambda stream: stream.result({"path": "/workspace", "entries": [entry], "truncated": False}))
    with pytest.raises(ProtocolError):
        list_files(Call(None), place, ".", recursive=False, pattern=None, limit=10)


def test_a_lying_write_is_refused(scripted: Scripted) -> None:
    place = scripted(
        lambda stream: stream.result({"path": "/workspace/a", "size_bytes": -1, "sha256": "x", "created": True})
    )
    with pytest.raises(ProtocolError):
        write_file(Call(None), place, "a", text="x", expected_sha256=None)
