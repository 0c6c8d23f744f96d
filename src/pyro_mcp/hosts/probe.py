"""Probe: start a registered server as the sparest host does, ask it for its tools, and see it leave."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pyro_mcp.errors import PyroError
from pyro_mcp.hosts.contract import Tool
from pyro_mcp.system.process import wait_pidfd
from pyro_mcp.version import VERSION

PROTOCOL = "2025-06-18"
PASSED_ON = ("HOME", "LANG", "PATH", "TERM")
"""All that Codex gives a server of the caller's variables."""

ANSWER_SECONDS = 30.0
LEAVE_SECONDS = 2.0
MAX_LINE = 16 * 1024 * 1024
_TAIL_BYTES = 2000


class ProbeFailed(PyroError):
    """The server did not do what a host needs; `tail` is the end of what it said on standard error."""

    def __init__(self, message: str, tail: str) -> None:
        super().__init__(message)
        self.tail = tail


@dataclass(frozen=True)
class Probed:
    """What a server answered, and when: seconds since its start, and from the end of its input to its own."""

    initialize_seconds: float
    ready_seconds: float
    exit_seconds: float
    tools: tuple[Tool, ...]


def probe(words: Sequence[str], environ: Mapping[str, str], added: Mapping[str, Any], cwd: Path) -> Probed:
    """Run the server `words` once. Raises `ProbeFailed`."""
    variables = {name: environ[name] for name in PASSED_ON if name in environ}
    variables |= {name: str(value) for name, value in added.items()}
    with tempfile.TemporaryFile() as errors:
        begun = time.monotonic()
        try:
            child = subprocess.Popen(
                list(words),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=variables,
                cwd=cwd,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise ProbeFailed(f"cannot start it: {error}", "") from error
        try:
            return _ask(child, begun)
        except _Silent as reason:
            raise ProbeFailed(str(reason), _tail(errors)) from None
        finally:
            _end(child)


class _Silent(Exception):
    """What kept the server from answering."""


def _ask(child: subprocess.Popen[bytes], begun: float) -> Probed:
    talk = _Talk(child, begun + ANSWER_SECONDS)
    client = {"name": "pyro-host-doctor", "version": VERSION}
    talk.request("initialize", {"protocolVersion": PROTOCOL, "capabilities": {}, "clientInfo": client})
    initialized = time.monotonic() - begun
    talk.send({"method": "notifications/initialized"})
    tools = talk.tools()
    ready = time.monotonic() - begun
    return Probed(initialized, ready, _leave(child), tools)


def _leave(child: subprocess.Popen[bytes]) -> float:
    assert child.stdin is not None
    closed = time.monotonic()
    with contextlib.suppress(BrokenPipeError):
        child.stdin.close()
    if not _gone(child, LEAVE_SECONDS):
        raise _Silent(f"it was still there {LEAVE_SECONDS:g} s after the end of its input")
    return time.monotonic() - closed


class _Talk:
    """One conversation over standard input and output, until `deadline`."""

    def __init__(self, child: subprocess.Popen[bytes], deadline: float) -> None:
        self._child = child
        self._deadline = deadline
        self._buffer = b""
        self._count = 0

    def send(self, message: dict[str, Any]) -> None:
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            raise _Silent("it ended before it was asked") from None

    def request(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """The result of one request; other messages of the server are passed over."""
        self._count += 1
        self.send({"id": self._count, "method": method, "params": params})
        while True:
            message = self._message(method)
            if message.get("id") != self._count or "method" in message:
                continue
            result = message.get("result")
            if not isinstance(result, dict):
                raise _Silent(f"it refused {method}: {json.dumps(message.get('error'))[:300]}")
            return result

    def tools(self) -> tuple[Tool, ...]:
        """All tools, page by page."""
        found: list[Tool] = []
        params: dict[str, Any] = {}
        while True:
            page = self.request("tools/list", params)
            listed = page.get("tools")
            found += [_tool(one) for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
            if not page.get("nextCursor"):
                return tuple(found)
            params = {"cursor": page["nextCursor"]}

    def _message(self, method: str) -> dict[str, Any]:
        line = self._line(method)
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            raise _Silent(f"it wrote on standard output what is no message: {line[:200].decode('utf-8', 'replace')!r}")
        return message

    def _line(self, method: str) -> bytes:
        assert self._child.stdout is not None
        poller = select.poll()
        poller.register(self._child.stdout, select.POLLIN)
        while b"\n" not in self._buffer:
            if not poller.poll(max(0, int((self._deadline - time.monotonic()) * 1000))):
                raise _Silent(f"it did not answer {method} within {ANSWER_SECONDS:g} s")
            piece = os.read(self._child.stdout.fileno(), 1 << 16)
            if not piece:
                raise _Silent(f"it ended without answering {method}{self._status()}")
            self._buffer += piece
            if len(self._buffer) > MAX_LINE:
                raise _Silent(f"its answer to {method} is longer than {MAX_LINE} bytes")
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _status(self) -> str:
        if not _gone(self._child, LEAVE_SECONDS):
            return ""
        ended = os.waitid(os.P_PID, self._child.pid, os.WEXITED | os.WNOWAIT)
        if ended is None:
            return ""
        return f", with exit code {ended.si_status}" if ended.si_code == os.CLD_EXITED else ", killed by a signal"


def _gone(child: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether it ends within `seconds`. It is not reaped: until its group is ended, the number must stay its own."""
    descriptor = os.pidfd_open(child.pid)
    try:
        return wait_pidfd(descriptor, seconds)
    finally:
        os.close(descriptor)


def _tool(listed: dict[str, Any]) -> Tool:
    notes = listed.get("annotations")
    notes = notes if isinstance(notes, dict) else {}
    return Tool(
        name=str(listed.get("name")),
        read_only=notes.get("readOnlyHint") is True,
        destructive=notes.get("destructiveHint") is not False,
        open_world=notes.get("openWorldHint") is not False,
    )


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the server with all that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):
                stream.close()


def _tail(errors: IO[bytes]) -> str:
    errors.seek(max(0, errors.seek(0, os.SEEK_END) - _TAIL_BYTES))
    # It may begin amid a character.
    lines = errors.read().decode("utf-8", "replace").lstrip("\ufffd").splitlines()
    return " / ".join(line.strip() for line in lines if line.strip())
