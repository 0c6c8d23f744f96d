"""What the workspace tests say to the agent, and what they expect of it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pyro_mcp.protocol.channel import Channel, ChannelClosed, Data, Event, RemoteError, StreamResult
from pyro_mcp.protocol.entries import Encoder, Entry, EntryDecoder, Piece

from .conftest import Client

Tree = dict[str, tuple[Entry, bytes]]


def talk(
    channel: Channel, verb: str, params: dict[str, Any], data: bytes | None = None
) -> tuple[Any, bytes, list[Any]]:
    """The result, the output and the events of one request."""
    stream = channel.open(verb, params)
    if data is not None:
        try:
            stream.send(data)
            stream.end()
        except ChannelClosed:
            pass  # The answer below says why.
    output, events = bytearray(), []
    for message in stream.messages():
        if isinstance(message, Data):
            output += message.data
        elif isinstance(message, Event):
            events.append(message.value)
        elif isinstance(message, StreamResult):
            return message.value, bytes(output), events
    raise AssertionError("no result")


@contextmanager
def refused(code: str, words: str = "") -> Iterator[None]:
    with pytest.raises(RemoteError) as caught:
        yield
    assert caught.value.payload["code"] == code, caught.value.payload
    assert words in caught.value.payload["message"]


def listing(agent: Client, **params: Any) -> dict[str, Any]:
    return agent.channel.call("file_list", params, timeout=20)


def names(agent: Client, **params: Any) -> list[str]:
    return [entry["path"].removeprefix("/workspace/") for entry in listing(agent, **params)["entries"]]


def write(agent: Client, path: str, data: bytes, **params: Any) -> dict[str, Any]:
    result: dict[str, Any] = talk(agent.channel, "file_write", {"path": path, "size": len(data), **params}, data)[0]
    return result


def apply(agent: Client, *operations: dict[str, Any], data: bytes = b"") -> dict[str, Any]:
    result: dict[str, Any] = talk(agent.channel, "tree_apply", {"operations": list(operations)}, data)[0]
    return result


def encoded(*tree: tuple[Entry, bytes]) -> bytes:
    out = bytearray()
    encoder = Encoder(out.extend)
    for entry, data in tree:
        encoder.entry(entry)
        encoder.data(data)
    encoder.finish()
    return bytes(out)


def decoded(data: bytes) -> Tree:
    decoder = EntryDecoder()
    found: Tree = {}
    last = ""
    for item in decoder.feed(data):
        if isinstance(item, Piece):
            entry, so_far = found[last]
            found[last] = entry, so_far + item.data
        else:
            last = item.path if item.type != "opaque" else f"{item.path}/<opaque>"
            found[last] = item, b""
    decoder.close()
    return found


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def split(data: bytes, events: list[Any]) -> dict[str, tuple[str, bytes | None, bytes | None]]:
    """Changes as path: status, old text, new text."""
    found: dict[str, tuple[str, bytes | None, bytes | None]] = {}
    at = 0
    for event in events:
        if event["text"] is None:
            found[event["path"]] = event["status"], None, None
            continue
        old, new = event["text"]
        found[event["path"]] = event["status"], data[at : at + old], data[at + old : at + old + new]
        at += old + new
    assert at == len(data)
    return found


def snapshot(root: Path) -> dict[str, tuple[int, bytes]]:
    """Everything below `root`: type with mode, and content or a link's text."""
    return {path.relative_to(root).as_posix(): (path.lstat().st_mode, _content(path)) for path in root.rglob("*")}


def _content(path: Path) -> bytes:
    if path.is_symlink():
        return os.fsencode(os.readlink(path))
    return path.read_bytes() if path.is_file() else b""
