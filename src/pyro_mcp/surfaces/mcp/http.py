"""Http: one server for several clients of this host, over streamable HTTP.

It listens on loopback only, and answers only who knows its token: everybody on this host, and every page in a browser
here, can reach a port. A page that has its own name point to 127.0.0.1 is told by its `Host`, one that sends from
elsewhere by its `Origin`. Who is refused is refused by its headers; its body is not read, and nothing is run.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import os
import secrets
import socket
import stat
import sys
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import uvicorn
from mcp.server import Server
from mcp.server.transport_security import TransportSecuritySettings
from uvicorn.protocols.http.h11_impl import H11Protocol

from pyro_mcp.errors import InvalidArgument, PyroError
from pyro_mcp.settings import Settings, given_mcp_token
from pyro_mcp.surfaces.mcp.sessions import App, HttpSessions, Receive, Scope, Send
from pyro_mcp.surfaces.mcp.wire import MAX_LINE
from pyro_mcp.system.atomic import disk_errors, make_directory, write_file
from pyro_mcp.system.locks import locked

PATH = "/mcp"
TOKEN_MIN = 16
MAX_CONNECTIONS = 128
MAX_SESSIONS = 64
"""How many sessions are kept for clients that have no connection just now."""
MAX_HEADERS = 32 * 1024
HEADER_SECONDS = 10.0
"""How long a connection may take to say what it wants."""
GRACE_SECONDS = 2
"""How long requests may go on after the server was told to end."""


def serve_http(settings: Settings, server: Server[Any], *, host: str, port: int, token_file: str | None) -> NoReturn:
    """Serve until SIGINT or SIGTERM; then leave the process with exit code 0. Raises `PyroError` when it cannot."""
    address = _loopback(host)
    token, told = find_token(settings, token_file)
    listener = _listen(address, port)
    bound = listener.getsockname()[1]
    config = http_config(server, token=token, port=bound)
    print(_how_to_use(f"http://{_authority(address, bound)}{PATH}", told), file=sys.stderr, flush=True)
    EventDriven(config).run(sockets=[listener])
    # A call that waits for the node must not hold the process up; the node ends what a lost client had running.
    os._exit(0)


def http_config(server: Server[Any], *, token: str, port: int) -> uvicorn.Config:
    """How `server` is served on a loopback port to who knows `token`."""
    app = server.streamable_http_app(
        streamable_http_path=PATH,
        max_request_body_size=MAX_LINE,
        # More than there can be: `HttpSessions` ends what nobody uses, where the library would refuse who comes.
        max_sessions=MAX_SESSIONS + 2 * MAX_CONNECTIONS,
        # The gate has looked at host and origin; the library's look takes `LOCALHOST` for another host.
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
    )
    return uvicorn.Config(
        Gate(HttpSessions(app, MAX_SESSIONS), token=token, port=port),
        http=BoundedConnection,
        ws="none",
        loop="asyncio",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        date_header=False,
        h11_max_incomplete_event_size=MAX_HEADERS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )


class Gate:
    """Lets in who asks from here and knows the token; an ASGI application around another."""

    def __init__(self, app: App, *, token: str, port: int) -> None:
        self._app = app
        self._token = token.encode()
        self._hosts = {f"{name}:{port}".encode() for name in ("127.0.0.1", "localhost", "[::1]")}
        self._origins = {b"http://" + host for host in self._hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan" and (refused := self._refusal(scope)):
            await _refuse(send, *refused)
        else:
            await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name, []).append(value)
        if len(hosts := headers.get(b"host", [])) != 1 or hosts[0].lower() not in self._hosts:
            return 403, "cannot serve this host name: only this host's own"
        if not self._origins.issuperset(origin.lower() for origin in headers.get(b"origin", [])):
            return 403, "cannot serve a page of another origin"
        given = headers.get(b"authorization", [])
        scheme, _, token = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(token.lstrip(b" "), self._token):
            return 401, "cannot serve without the token: send `Authorization: Bearer TOKEN`"
        return None


async def _refuse(send: Send, status: int, message: str) -> None:
    body = json.dumps({"jsonrpc": "2.0", "id": None, "error": {"code": -32000, "message": message}}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        # The rest of what it sends is not read.
        (b"connection", b"close"),
    ]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class BoundedConnection(H11Protocol):
    """A connection that has to say in time what it wants, and is one of so many."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
        else:
            self._wait_for_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._headers_are_there()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._serving():
            self._headers_are_there()
        elif self._deadline is None:
            self._wait_for_headers()

    def _serving(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait_for_headers(self) -> None:
        self._deadline = self.loop.call_later(HEADER_SECONDS, self.transport.abort)

    def _headers_are_there(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class EventDriven(uvicorn.Server):
    """The server without its look around ten times a second: it sleeps until there is something to do."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._told = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def main_loop(self) -> None:
        self._loop = asyncio.get_running_loop()
        if not self.should_exit:
            await self._told.wait()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._told.set)


def find_token(settings: Settings, token_file: str | None) -> tuple[str, str]:
    """The token, and where clients find it: of `token_file`, of PYRO_MCP_TOKEN, or of a file that is made once."""
    if token_file is not None:
        return _read_token(Path(token_file)), token_file
    if (given := given_mcp_token()) is not None:
        return _checked(given, "PYRO_MCP_TOKEN"), "PYRO_MCP_TOKEN"
    path = settings.state_dir / "mcp.token"
    with disk_errors("make a token"):
        make_directory(settings.state_dir)
        with locked(settings.state_dir / "mcp.token.lock"):
            if not path.exists():
                write_file(path, secrets.token_urlsafe(32).encode() + b"\n")
    return _read_token(path), str(path)


def _read_token(path: Path) -> str:
    with disk_errors("read the token"):
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise InvalidArgument(f"cannot read the token from {path}: it is not a file", hint="Name a file.")
        if mode & 0o077:
            hint = f"Run `chmod 600 {path}`, and change the token if others may have read it."
            raise InvalidArgument(f"cannot use the token in {path}: other users may read it", hint=hint)
        text = path.read_text("utf-8", "replace")
    return _checked(text.strip(), str(path))


def _checked(token: str, origin: str) -> str:
    if len(token) < TOKEN_MIN or not token.isascii() or not token.isprintable() or " " in token:
        hint = f"Use at least {TOKEN_MIN} printable ASCII characters without spaces."
        raise InvalidArgument(f"cannot use the token of {origin}: it is too short or not plain text", hint=hint)
    return token


def _loopback(host: str) -> str:
    address = "127.0.0.1" if host == "localhost" else host
    try:
        if ipaddress.ip_address(address).is_loopback:
            return address
    except ValueError:
        pass
    raise InvalidArgument(
        f"cannot listen on {host}: it is not a loopback address",
        hint="Use 127.0.0.1 or ::1. To reach it from elsewhere, forward the port, for example with `ssh -L`.",
    )


def _listen(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return socket.create_server((address, port), family=family, backlog=MAX_CONNECTIONS)
    except OSError as error:
        hint = "Choose another with --port; 0 takes a free one."
        raise PyroError(f"cannot listen on {_authority(address, port)}: {error.strerror}", hint=hint) from error


def _authority(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _how_to_use(url: str, token: str) -> str:
    entry = {"type": "http", "url": url, "headers": {"Authorization": "Bearer TOKEN"}}
    lines: Iterable[str] = (
        f"Serving MCP at {url}; end it with Ctrl-C.",
        f"TOKEN is in {token}. An entry for a client:",
        json.dumps(entry),
    )
    return "\n".join(lines)
