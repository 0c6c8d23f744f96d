"""Service ports: ports of this host that are forwarded to the services of a machine.

A listener lives exactly as long as its service: it stands before the service starts, so that a taken port is reported
before anything has happened, and is closed the moment the service is over. None outlives the node; the next one opens
them again with the same numbers.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable
from typing import Any

from pyro_mcp.engine.agent import refusal_of
from pyro_mcp.errors import Conflict, InvalidArgument, PyroError
from pyro_mcp.machines.driver import Machine
from pyro_mcp.model.count import count_of
from pyro_mcp.network.publish import LOOPBACK, Listener, Publisher
from pyro_mcp.protocol.stream import RemoteError, Stream
from pyro_mcp.store.workspaces import WorkspaceRow

PORTS_MAX = 16
CONNECT_SECONDS = 10
POLICY = "egress+published-ports"
_PAIR = re.compile(r"(?:([0-9]{1,9}):)?([0-9]{1,9})")


def wanted_ports(requests: Iterable[int | str] | None) -> list[dict[str, Any]]:
    """`GUEST` or `HOST:GUEST` as ports to publish; host port 0 is any free one. Raises `InvalidArgument`."""
    ports = [_port(requested) for requested in requests or ()]
    if len(ports) > PORTS_MAX:
        raise InvalidArgument(f"cannot publish {count_of(len(ports), 'port')}: at most {PORTS_MAX} fit")
    for key, what in (("guest_port", "a port of the machine"), ("host_port", "a port of this host")):
        numbers = [port[key] for port in ports if port[key]]
        if double := {number for number in numbers if numbers.count(number) > 1}:
            raise InvalidArgument(f"cannot publish {what} twice: {min(double)}")
    return ports


def check_policy(workspace: WorkspaceRow, ports: list[dict[str, Any]]) -> None:
    """Raises `Conflict` when the workspace may not publish ports."""
    if ports and workspace.network_policy != POLICY:
        raise Conflict(
            f"cannot publish ports: the network policy of {workspace.workspace_id} is {workspace.network_policy}",
            hint=f"Create the workspace with <<create_workspace.network_policy={POLICY}>>",
        )


class PublishedPorts:
    """The open ports of one machine. Every method may be called from any thread."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._publisher = Publisher()
        self._lock = threading.Lock()
        self._ending = threading.Lock()
        self._listeners: dict[str, list[Listener]] = {}

    def open(self, run: str, ports: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Publish all `ports` for `run`, or none: what they are now. Raises what `Publisher.publish` raises."""
        made: list[Listener] = []
        try:
            for port in ports:
                made.append(self._publish(port))
        except PyroError:
            _close(made)
            raise
        self._keep(run, made)
        return [_fields(port, listener) for port, listener in zip(ports, made, strict=True)]

    def reopen(self, run: str, ports: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Publish again with the same numbers; what was taken meanwhile says so as its `problem`."""
        made, shown = [], []
        for port in ports:
            try:
                made.append(self._publish(port))
                shown.append(_fields(port, made[-1]))
            except PyroError as error:
                shown.append({**port, "problem": error.message[:300]})
        self._keep(run, made)
        return shown

    def end(self, run: str) -> None:
        """The service is over: its ports are free on return, whoever frees them. Idempotent."""
        with self._ending:
            with self._lock:
                listeners = self._listeners.pop(run, [])
            _close(listeners)

    def close(self) -> None:
        """The machine is gone, or the node leaves."""
        self._publisher.close()

    def _keep(self, run: str, listeners: list[Listener]) -> None:
        with self._lock:
            if listeners:
                self._listeners[run] = listeners

    def _publish(self, port: dict[str, Any]) -> Listener:
        params = {"host": "localhost", "port": port["guest_port"], "timeout_seconds": CONNECT_SECONDS}

        def dial() -> Stream:
            try:
                return self._machine.channel.open("tcp_connect", params)
            except RemoteError as error:
                raise refusal_of(error) from None

        return self._publisher.publish(dial, port=port["host_port"], host=port["host"])


def _close(listeners: Iterable[Listener]) -> None:
    for listener in listeners:
        listener.close()


def _fields(port: dict[str, Any], listener: Listener) -> dict[str, Any]:
    return {**port, "host_port": listener.port, "host": listener.host, "problem": None}


def _port(requested: int | str) -> dict[str, Any]:
    found = _PAIR.fullmatch(str(requested))
    if found is None:
        raise InvalidArgument(
            f"cannot publish {str(requested)[:40]!r}: it is not a port",
            hint="Give GUEST or HOST:GUEST, such as 8080:80",
        )
    host_port = 0 if found[1] is None else _number(found[1])
    return {"guest_port": _number(found[2]), "host_port": host_port, "host": LOOPBACK, "protocol": "tcp"}


def _number(text: str) -> int:
    if not 1 <= int(text) <= 65535:
        raise InvalidArgument(f"cannot publish port {text}: a port is a number from 1 to 65535")
    return int(text)
