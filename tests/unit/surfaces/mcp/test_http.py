"""Who is let in over HTTP, and what a connection may cost."""

from __future__ import annotations

import os
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from pyro_mcp.errors import InvalidArgument, PermissionDenied, PyroError
from pyro_mcp.settings import Settings
from pyro_mcp.surfaces.mcp import http
from pyro_mcp.surfaces.mcp.http import BoundedConnection, EventDriven, Gate, find_token, serve_http

TOKEN = "t0ken-of-this-test"


def settings(tmp_path: Path) -> Settings:
    return Settings.load({}, state_dir=tmp_path / "state")


class Door:
    """The gate and its connections, with an application behind that counts who came through."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.passed = 0
        gate = Gate(self._inside, token=TOKEN, port=self.port)
        config = uvicorn.Config(gate, http=BoundedConnection, ws="none", log_config=None, timeout_graceful_shutdown=1)
        self.server = EventDriven(config)
        self._thread = threading.Thread(target=self.server.run, args=([self.listener],))
        self._thread.start()

    async def _inside(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while True:
                event = (await receive())["type"]
                await send({"type": f"{event}.complete"})
                if event == "lifespan.shutdown":
                    return
        self.passed += 1
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def ask(self, **headers: str | None) -> int:
        """The status of a POST; headers are the right ones but for those given, and None leaves one out."""
        right = {"host": f"127.0.0.1:{self.port}", "authorization": f"Bearer {TOKEN}", "content-length": "2"}
        lines = [f"{name}: {value}" for name, value in {**right, **headers}.items() if value is not None]
        with self.connect() as connection:
            connection.sendall("\r\n".join(["POST /mcp HTTP/1.1", *lines, "", "{}"]).encode("latin-1"))
            return int(connection.recv(1000).split()[1])

    def close(self) -> None:
        self.server.handle_exit(15, None)
        self._thread.join(30)
        assert not self._thread.is_alive()


@pytest.fixture
def door() -> Iterator[Door]:
    made = Door()
    yield made
    made.close()


def test_only_who_asks_from_here_with_the_token_is_let_in(door: Door) -> None:
    own = [f"{name}:{door.port}" for name in ("127.0.0.1", "localhost", "[::1]")]
    for host in own:
        assert door.ask(host=host) == 200
        assert door.ask(origin=f"http://{host}") == 200
    let_in = door.passed
    for host in (
        "evil.example",
        f"evil.example:{door.port}",
        "127.0.0.1",
        "127.0.0.1:1",
        f"127.0.0.1:{door.port}.evil.example",
    ):
        assert door.ask(host=host) == 403
    for origin in (
        "null",
        "http://evil.example",
        "http://127.0.0.1",
        f"https://{own[0]}",
        own[0],
        "http://localhost:1",
        "",
    ):
        assert door.ask(origin=origin) == 403
    for given in (
        None,
        "",
        "Bearer",
        "Bearer x",
        f"bearer {TOKEN}x",
        f"Basic {TOKEN}",
        f"Bearer {TOKEN[:-1]}",
        "Bearer \xff",
    ):
        assert door.ask(authorization=given) == 401
    assert door.passed == let_in


def test_headers_that_stand_twice_are_refused(door: Door) -> None:
    with door.connect() as connection:
        host = f"host: 127.0.0.1:{door.port}"
        lines = ["GET /mcp HTTP/1.1", host, f"authorization: Bearer {TOKEN}", "authorization: Bearer x", "", ""]
        connection.sendall("\r\n".join(lines).encode())
        assert b" 401 " in connection.recv(1000)
    assert door.passed == 0


def test_a_body_of_who_is_refused_is_not_waited_for(door: Door) -> None:
    with door.connect() as connection:
        lines = ["POST /mcp HTTP/1.1", f"host: 127.0.0.1:{door.port}", "content-length: 1000000000", "", ""]
        connection.sendall("\r\n".join(lines).encode())
        assert b" 401 " in connection.recv(1000)
        while connection.recv(1000):
            pass


def send_slowly(connection: socket.socket) -> None:
    deadline = time.monotonic() + 30
    for letter in b"GET /mcp HTTP/1.1\r\nx-slow: " + b"a" * 1000:
        assert time.monotonic() < deadline
        connection.sendall(bytes([letter]))
        time.sleep(0.1)


def is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


@pytest.mark.parametrize("first", [False, True], ids=["at once", "after a request"])
def test_who_does_not_say_what_it_wants_is_hung_up_on(door: Door, first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "HEADER_SECONDS", 0.5)
    with door.connect() as connection:
        if first:
            lines = ["GET /mcp HTTP/1.1", f"host: 127.0.0.1:{door.port}", f"authorization: Bearer {TOKEN}", "", ""]
            connection.sendall("\r\n".join(lines).encode())
            assert b" 200 " in connection.recv(1000)
        with pytest.raises(ConnectionError):
            send_slowly(connection)


def test_connections_are_counted(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_CONNECTIONS", 3)
    held = [door.connect() for _ in range(3)]
    deadline = time.monotonic() + 30
    while len(door.server.server_state.connections) < 3:
        assert time.monotonic() < deadline
    with door.connect() as one_more:
        assert is_closed(one_more)
    for connection in held:
        connection.close()
    while door.server.server_state.connections:
        assert time.monotonic() < deadline
    assert door.ask() == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com", ""])
def test_nothing_but_loopback_is_listened_on(tmp_path: Path, host: str) -> None:
    with pytest.raises(InvalidArgument, match="not a loopback address"):
        serve_http(settings(tmp_path), None, host=host, port=0, token_file=None)  # type: ignore[arg-type]


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PyroError, match="in use") as caught:
            serve_http(settings(tmp_path), None, host="localhost", port=port, token_file=None)  # type: ignore[arg-type]
    assert "--port" in str(caught.value.hint)


def test_a_token_is_made_once_and_for_this_user_only(tmp_path: Path) -> None:
    token, place = find_token(settings(tmp_path), None)
    assert len(token) >= 40
    assert stat.S_IMODE(os.stat(place).st_mode) == 0o600
    assert find_token(settings(tmp_path), None) == (token, place)


def test_a_token_may_be_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYRO_MCP_TOKEN", TOKEN)
    assert find_token(settings(tmp_path), None) == (TOKEN, "PYRO_MCP_TOKEN")
    assert "PYRO_MCP_TOKEN" not in os.environ
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}-2\n")
    file.chmod(0o600)
    assert find_token(settings(tmp_path), str(file)) == (f"{TOKEN}-2", str(file))
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("content", "mode", "error"),
    [
        ("brief", 0o600, InvalidArgument),
        ("", 0o600, InvalidArgument),
        ("with a space in it", 0o600, InvalidArgument),
        ("sixteen-chars-é-and-more", 0o600, InvalidArgument),
        (TOKEN, 0o644, InvalidArgument),
        (TOKEN, 0o620, InvalidArgument),
        (None, 0, PyroError),
    ],
)
def test_a_bad_token_is_refused(tmp_path: Path, content: str | None, mode: int, error: type[PyroError]) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_text(content)
        file.chmod(mode)
    with pytest.raises(error) as caught:
        find_token(settings(tmp_path), str(file))
    assert content is None or not content or content not in str(caught.value)
    assert not isinstance(caught.value, PermissionDenied)
