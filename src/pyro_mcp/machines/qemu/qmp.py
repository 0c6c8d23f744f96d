"""QMP: QEMU's monitor, spoken synchronously over its Unix socket.

The maintained library, `qemu.qmp`, is asyncio throughout; the node is threads, and these are four commands.
Protocol: https://www.qemu.org/docs/master/interop/qmp-spec.html
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable
from typing import Any

from pyro_mcp.errors import MachineFailed

MAX_LINE = 1024 * 1024


class Qmp:
    """One monitor connection. Owns `connection`; every wait is bounded by `timeout` seconds."""

    def __init__(self, connection: socket.socket, *, timeout: float = 10.0) -> None:
        connection.settimeout(timeout)
        self._socket = connection
        self._lines = connection.makefile("rb")
        self._events: list[dict[str, Any]] = []
        try:
            self._read()
            self.execute("qmp_capabilities")
        except MachineFailed:
            self.close()
            raise

    def execute(self, command: str, **arguments: Any) -> Any:
        """The command's return value. Raises `MachineFailed` when QEMU refuses, hangs or is gone."""
        request = {"execute": command, "arguments": arguments} if arguments else {"execute": command}
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise MachineFailed(f"cannot {command}: QEMU's monitor is gone ({error})") from None
        return self._answer(command)

    def _answer(self, command: str) -> Any:
        while True:
            answer = self._read()
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise MachineFailed(f"cannot {command}: QEMU says {answer['error'].get('desc')}")
            if "event" in answer:
                self._events.append(answer)

    def send_descriptor(self, name: str, descriptor: int) -> None:
        """Hand `descriptor` to QEMU under `name`, for `fd:<name>` addresses."""
        request = json.dumps({"execute": "getfd", "arguments": {"fdname": name}}).encode() + b"\n"
        try:
            socket.send_fds(self._socket, [request], [descriptor])
        except OSError as error:
            raise MachineFailed(f"cannot hand a file to QEMU: {error}") from None
        self._answer("getfd")

    def next_event(self) -> dict[str, Any]:
        """The next event of whatever name, until `disconnect`."""
        timeout = self._socket.gettimeout()
        try:
            self._socket.settimeout(None)
            return self._events.pop(0) if self._events else self._read()
        finally:
            self._socket.settimeout(timeout)

    def wait_event(self, name: str, wanted: Callable[[dict[str, Any]], bool] = lambda _: True) -> dict[str, Any]:
        """The data of the next event `name` that is `wanted`; earlier ones are dropped."""
        while True:
            event = self._events.pop(0) if self._events else self._read()
            data = event.get("data", {})
            if event.get("event") == name and wanted(data):
                return dict(data)

    def wait_migration(self) -> None:
        """Return when the migration under way has completed."""
        data = self.wait_event("MIGRATION", lambda data: data.get("status") in ("completed", "failed"))
        if data["status"] == "failed":
            raise MachineFailed("cannot move the guest's state: QEMU reports a failed migration")

    def disconnect(self) -> None:
        """End the wait of another thread, which then closes. Harmless when it has."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._lines.close()
        self._socket.close()

    def _read(self) -> dict[str, Any]:
        try:
            line = self._lines.readline(MAX_LINE)
        except OSError as error:
            raise MachineFailed(f"cannot reach QEMU's monitor: {error or 'no answer in time'}") from None
        if not line.endswith(b"\n"):
            raise MachineFailed("cannot reach QEMU's monitor: QEMU has exited")
        message: dict[str, Any] = json.loads(line)
        return message
