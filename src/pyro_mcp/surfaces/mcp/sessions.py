"""Sessions: what becomes of those whose client has left without a word.

A client that is killed sends no DELETE and cancels nothing, and nobody can fetch the answer of its call later. So a
call whose connection is gone is cancelled once its session has no other connection either; and of the sessions without
a connection only so many are kept, those that were used last. Those with one are as many as there are connections.
The server is told both by the requests that a client would have sent.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

ID_HEADER = b"mcp-session-id"


class _RequestHead(msgspec.Struct):
    """What of a message says which request it is."""

    id: int | str | None = None
    method: str | None = None


@dataclass
class _HttpSession:
    open: int = 0
    """How many of its requests are being answered."""

    lost: list[int | str] = field(default_factory=list)
    """The calls that nobody waits for any more."""


class HttpSessions:
    """Tends the sessions of an ASGI application that serves MCP, of which `idle_max` may be without a connection."""

    def __init__(self, app: App, idle_max: int) -> None:
        self._app = app
        self._idle_max = idle_max
        # The one that was used longest ago comes first.
        self._sessions: dict[bytes, _HttpSession] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        inner = dict(scope)
        one = _Exchange(receive, send)
        name = _session_of(scope["headers"])
        session = self._sessions.get(name) if name is not None else None
        if session is not None:
            session.open += 1
        try:
            await self._app(scope, one.receive, one.send)
        finally:
            if session is not None:
                session.open -= 1
        if name is None:
            name, session = one.opened, _HttpSession()
        if name is not None and session is not None:
            await self._used(inner, name, session, one)

    async def _used(self, scope: Scope, name: bytes, session: _HttpSession, one: _Exchange) -> None:
        self._sessions.pop(name, None)
        if one.status == 404 or scope["method"] == "DELETE":
            return
        self._sessions[name] = session
        if not one.answered and one.request_id is not None:
            session.lost.append(one.request_id)
        if not session.open:
            lost, session.lost = session.lost, []
            for request in lost:
                cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": request}}
                await self._say(scope, name, "POST", msgspec.json.encode(cancel))
        idle = [key for key, value in self._sessions.items() if not value.open]
        for key in idle[: -self._idle_max]:
            del self._sessions[key]
            await self._say(scope, key, "DELETE")

    async def _say(self, scope: Scope, session: bytes, method: str, body: bytes = b"") -> None:
        """Send what the client of `session` would have, by the `scope` of another request."""
        said = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def receive() -> Event:
            return next(said, {"type": "http.disconnect"})

        async def send(_: Event) -> None:
            """Nobody waits for the answer."""

        headers = [(name, value) for name, value in scope["headers"] if name == b"host"]
        headers += [
            (ID_HEADER, session),
            (b"content-type", b"application/json"),
            (b"accept", b"application/json, text/event-stream"),
            (b"content-length", str(len(body)).encode()),
        ]
        await self._app({**scope, "method": method, "headers": headers}, receive, send)


class _Exchange:
    """A request and its answer, as they pass by."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self.request_id: int | str | None = None
        self.opened: bytes | None = None
        self.status = 0
        self.answered = False
        self._receive = receive
        self._send = send
        self._pieces: list[bytes] = []

    async def receive(self) -> Event:
        event = await self._receive()
        if event["type"] == "http.request":
            self._pieces.append(event.get("body", b""))
            if not event.get("more_body"):
                self.request_id = _request_id(b"".join(self._pieces))
                self._pieces.clear()
        return event

    async def send(self, event: Event) -> None:
        if event["type"] == "http.response.start":
            self.status = event["status"]
            self.opened = _session_of(event["headers"]) if self.status < 400 else None
        await self._send(event)
        if event["type"] == "http.response.body" and not event.get("more_body"):
            self.answered = True


def _session_of(headers: list[tuple[bytes, bytes]]) -> bytes | None:
    return next((bytes(value) for name, value in headers if name.lower() == ID_HEADER), None)


def _request_id(body: bytes) -> int | str | None:
    try:
        head = msgspec.json.decode(body, type=_RequestHead)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return head.id if head.method is not None else None
