"""readiness: one look at whether a service is ready, without ever waiting.

A probe is a small state machine over one descriptor, so the thread that keeps all services runs any number of them:
`begin`, then `advance` whenever `fd` has one of `events`, until there is an outcome. What is dialled is in this machine
(`protocol.readiness` decides), no redirect is followed, and of an answer no more is read than its first line.
"""

from __future__ import annotations

import _socket
import os
import select
import signal
from collections.abc import Callable
from typing import Protocol

from pyro_mcp.guest.errors import cause
from pyro_mcp.guest.exec.children import Child, SpawnError
from pyro_mcp.protocol.readiness import Address, Readiness

PROBE_SECONDS = 5.0
"""How long one look may take; one that hangs counts as not ready, and the next begins."""
BEFORE_SECONDS = 1.0
"""How long to look whether somebody answers already: a start that is cancelled meanwhile must not be late to end."""
READ_MAX = 64 * 1024
READY = ""
Outcome = str | None
"""`READY`, why it is not ready yet, or None: not known yet."""


class Probe(Protocol):
    """One look. `fd` may change with each step."""

    fd: int
    events: int

    def begin(self) -> Outcome: ...

    def advance(self) -> Outcome: ...

    def close(self) -> None: ...


class FileProbe:
    """Whether a path exists; links are not followed."""

    fd, events = -1, 0

    def __init__(self, path: bytes) -> None:
        self._path = path

    def begin(self) -> Outcome:
        try:
            os.lstat(self._path)
        except OSError as error:
            return f"{os.fsdecode(self._path)}: {cause(error)}"
        return READY

    def advance(self) -> Outcome:
        return self.begin()

    def close(self) -> None:
        """Nothing is open."""


class TcpProbe:
    """Whether something accepts a connection at one of the addresses."""

    def __init__(self, addresses: tuple[Address, ...]) -> None:
        self.fd = -1
        self.events = select.POLLOUT
        self._left = list(addresses)
        self._connection: _socket.socket | None = None
        self._why = ""

    def begin(self) -> Outcome:
        """Dial the next address."""
        while self._left:
            self.close()
            family, host, port = self._left.pop(0)
            try:
                self._connection = _socket.socket(
                    family, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC
                )
                self.fd = self._connection.fileno()
                self._connection.connect((host, port))
            except BlockingIOError:
                return None
            except OSError as error:
                self._why = self._why or f"port {port}: {cause(error)}"
                continue
            return self.connected(self._connection)
        self.close()
        return self._why

    def advance(self) -> Outcome:
        assert self._connection is not None
        number = self._connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
        if number:
            self._why = self._why or os.strerror(number)
            return self.begin()
        return self.connected(self._connection)

    def connected(self, connection: _socket.socket) -> Outcome:
        return READY

    def close(self) -> None:
        self.fd = -1
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class HttpProbe(TcpProbe):
    """Whether a GET is answered with a status from 200 to 399."""

    def __init__(self, readiness: Readiness) -> None:
        super().__init__(readiness.addresses)
        request = f"GET {readiness.target} HTTP/1.1\r\nHost: {readiness.host}\r\nUser-Agent: pyro\r\nAccept: */*\r\n"
        self._request = f"{request}Connection: close\r\n\r\n".encode("ascii")
        self._answer = b""

    def connected(self, connection: _socket.socket) -> Outcome:
        if self.events == select.POLLOUT:
            # 4 KiB at most, into an empty buffer: this never goes in part.
            try:
                connection.send(self._request)
            except OSError as error:
                return cause(error)
            self.events = select.POLLIN
            return None
        try:
            piece = connection.recv(4096)
        except BlockingIOError:
            return None
        except OSError as error:
            return cause(error)
        self._answer += piece
        line, end, _ = self._answer.partition(b"\r\n")
        if end or not piece or len(self._answer) >= READ_MAX:
            return _verdict(line, whole=bool(end))
        return None


def _verdict(line: bytes, *, whole: bool) -> Outcome:
    words = line[:64].split(b" ")
    if not whole or not words[0].startswith(b"HTTP/") or len(words) < 2 or not words[1].isdigit():
        return "it did not answer with HTTP"
    status = int(words[1])
    return READY if 200 <= status < 400 else f"HTTP status {status}"


class CommandProbe:
    """Whether a command ends with 0. It is ended with its group when it is not waited for any longer."""

    def __init__(self, spawn: Callable[[], Child]) -> None:
        self.fd = -1
        self.events = select.POLLIN
        self._spawn = spawn
        self._child: Child | None = None

    def begin(self) -> Outcome:
        try:
            self._child = self._spawn()
        except SpawnError as error:
            return f"the readiness command cannot be started: {error}"
        except OSError as error:
            return f"the readiness command cannot be started: {cause(error)}"
        self.fd = self._child.pidfd
        return None

    def advance(self) -> Outcome:
        assert self._child is not None
        code = os.waitstatus_to_exitcode(self._child.reap(kill_group=True))
        self._child, self.fd = None, -1
        if code == 0:
            return READY
        return f"the readiness command ended with {code}" if code > 0 else f"signal {-code} ended the readiness command"

    def close(self) -> None:
        if self._child is not None:
            self._child.kill_group(signal.SIGKILL)
            self._child.reap()
            self._child, self.fd = None, -1


def probe_of(readiness: Readiness, real_path: Callable[[str], bytes], spawn: Callable[[], Child]) -> Probe:
    """One look at `readiness`."""
    if readiness.kind == "file":
        return FileProbe(real_path(readiness.path))
    if readiness.kind == "tcp":
        return TcpProbe(readiness.addresses)
    return HttpProbe(readiness) if readiness.kind == "http" else CommandProbe(spawn)


def answers_already(readiness: Readiness) -> bool:
    """Whether somebody accepts connections there before the service has begun: then the probe would prove nothing."""
    for family, host, port in readiness.addresses:
        try:
            connection = _socket.socket(family, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        except OSError:
            continue  # A host without IPv6 has nobody there.
        try:
            connection.settimeout(BEFORE_SECONDS)
            connection.connect((host, port))
        except OSError:
            continue
        else:
            return True
        finally:
            connection.close()
    return False
