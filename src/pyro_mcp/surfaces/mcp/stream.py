"""Stream: a server of the MCP library over a host's pipe. The library hears messages, never lines: what may come
in is `wire`'s to say."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, TypeVar

import anyio
import anyio.to_thread
from mcp.server import Server
from mcp.shared.message import SessionMessage
from mcp.types import JSONRPCError, JSONRPCMessage, JSONRPCResponse, jsonrpc_message_adapter

from pyro_mcp.surfaces.mcp.wire import INTERNAL_ERROR, HostInput, LineRefused, Message

T = TypeVar("T")

DRAIN_SECONDS = 1.0
"""How long after the end of input what had been asked before may still be answered."""


def run(
    server: Server[Any],
    requests: HostInput,
    opening: Iterable[Message],
    first: Message,
    leave: Callable[[], NoReturn],
) -> None:
    """Serve until input ends or the host has gone; then `leave`. The library hears `opening` first, which has been
    answered already, and then `first`."""
    anyio.run(LibraryStream(requests, opening, first, leave).serve, server)


class LibraryStream:
    """One connection."""

    def __init__(
        self, requests: HostInput, opening: Iterable[Message], first: Message, leave: Callable[[], NoReturn]
    ) -> None:
        self._requests = requests
        self._answered = f"opening-{uuid.uuid4().hex}"
        renamed = ({**message, "id": self._answered} if "id" in message else message for message in opening)
        self._first = [*renamed, first]
        self._leave = leave
        self._ended = False

    async def serve(self, server: Server[Any]) -> None:
        heard, hears = anyio.create_memory_object_stream[SessionMessage | Exception]()
        said, says = anyio.create_memory_object_stream[SessionMessage]()
        async with heard, hears, said, says, anyio.create_task_group() as group:
            group.start_soon(self._listen, heard)
            group.start_soon(self._speak, says)
            await server.run(hears, said, server.create_initialization_options())
            self._leave()

    async def _listen(self, heard: Any) -> None:
        for message in self._first:
            await heard.send(_for_library(message))
        while (next_one := await self._in_thread(self._requests.next)) is not None:
            await heard.send(_for_library(next_one))
        self._ended = True
        if self._requests.running:
            await anyio.sleep(DRAIN_SECONDS)
        self._leave()

    async def _speak(self, says: Any) -> None:
        async for item in says:
            await self._in_thread(lambda: self._send(item.message))  # noqa: B023
            if self._ended and not self._requests.running:
                self._leave()

    async def _in_thread(self, action: Callable[[], T]) -> T:
        """A thread besides those of calls, which may all be busy."""
        try:
            return await anyio.to_thread.run_sync(action, limiter=anyio.CapacityLimiter(1))
        except OSError:
            self._leave()

    def _send(self, message: JSONRPCMessage) -> None:
        request_id = message.id if isinstance(message, JSONRPCResponse | JSONRPCError) else None
        if request_id == self._answered:
            return
        try:
            line = message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n"
        except ValueError as error:
            if request_id is None:
                return
            line = LineRefused(INTERNAL_ERROR, f"cannot write the answer: {type(error).__name__}", request_id).lines()
        self._requests.answer(request_id, line)


def _for_library(message: Message) -> SessionMessage:
    return SessionMessage(jsonrpc_message_adapter.validate_python(message, by_name=False))
