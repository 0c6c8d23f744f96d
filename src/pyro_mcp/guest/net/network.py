"""network: the verb `network_up`, which gives a guest the way out that its policy grants.

Until it is called, a guest has no interface but the loopback, no route and no name server. It is called at most once in
a guest's life, after `configure` and before the first command.
"""

from __future__ import annotations

import _socket
import threading
from collections.abc import Callable
from typing import Any

from pyro_mcp.guest import params as read
from pyro_mcp.guest.boot import root_files
from pyro_mcp.guest.errors import AgentError, cause, invalid
from pyro_mcp.guest.flow import Flow
from pyro_mcp.guest.net import drivers, link, rules, trust
from pyro_mcp.guest.net.egress import AgentEgress
from pyro_mcp.guest.net.host import Host
from pyro_mcp.guest.net.loop import Loop
from pyro_mcp.guest.net.queue import Queue
from pyro_mcp.guest.net.resolver import DnsServer
from pyro_mcp.protocol.channel import Channel, Stream

NAME_SERVER = "192.0.0.1"
"""Asked over the interface and so turned round to us; port 53 of the loopback stays the programs' own."""
RESOLVER = "/etc/resolv.conf"
MAX_CA_BYTES = 4 * 1024 * 1024
BACKLOG = 128
ATTEMPTS = 8


class Network:
    """`current` gives the channel to the host, None while there is none. `environment` is what the agent's processes
    start with; it is added to."""

    def __init__(
        self,
        current: Callable[[], Channel | None],
        environment: dict[bytes, bytes],
        log: Callable[[str], None],
    ) -> None:
        self._current = current
        self._environment = environment
        self._log = log
        self._lock = threading.Lock()
        self._up = False

    def up(self, stream: Stream) -> dict[str, Any]:
        """ipv6, ca_size (bytes of DATA 0: certificates in PEM, for the guest to trust) → guest_ip, interface."""
        ipv6 = read.flag(stream.params, "ipv6")
        ca_size = read.integer(stream.params, "ca_size", min_=0, max_=MAX_CA_BYTES)
        with self._lock:
            if self._up:
                raise AgentError("conflict", "cannot network_up: the network is up already")
            if ca_size:
                self._trust(stream, ca_size)
            try:
                self._raise(ipv6)
            except OSError as error:
                raise AgentError("internal", f"cannot network_up: {error.strerror or cause(error)}") from None
            self._up = True
        return {"guest_ip": link.ADDRESS, "interface": link.NAME}

    def _trust(self, stream: Stream, size: int) -> None:
        flow = Flow(stream)
        try:
            bundle = b"".join(flow.take(size))
        finally:
            flow.close()
        if b"-----BEGIN CERTIFICATE-----" not in bundle:
            raise invalid("cannot network_up: the bundle holds no certificate in PEM form")
        self._leave_to_user("the host's certificates", lambda: trust.install(bundle))
        self._environment.update(trust.VARIABLES)

    def _raise(self, ipv6: bool) -> None:
        """The filter stands before the first route does."""
        drivers.tune()
        loop = Loop(self._log)
        host = Host(loop, self._current)
        names, names_port = bind_loopback([_socket.SOCK_DGRAM, _socket.SOCK_STREAM], ipv6)
        connections, connections_port = bind_loopback([_socket.SOCK_STREAM], ipv6)
        AgentEgress(loop, host, Queue(rules.QUEUE), connections)
        DnsServer(loop, host, names, ipv6=ipv6)
        rules.install(rules.AgentPorts(dns=names_port, connections=connections_port))
        link.create(ipv6=ipv6)
        server = f"nameserver {NAME_SERVER}\n".encode()
        self._leave_to_user(RESOLVER, lambda: root_files.replace(RESOLVER, server))
        threading.Thread(target=loop.run, name="network", daemon=True).start()

    def _leave_to_user(self, what: str, write: Callable[[], None]) -> None:
        """A file that its user has locked, or has no room for, is left; the machine must start all the same."""
        try:
            write()
        except OSError as error:
            self._log(f"{what}: {error.strerror}")


def bind_loopback(kinds: list[int], ipv6: bool) -> tuple[list[_socket.socket], int]:
    """Sockets of `kinds` for each loopback address, all on one port, which is free. Raises `OSError`."""
    loopback = [(_socket.AF_INET, "127.0.0.1")] + ([(_socket.AF_INET6, "::1")] if ipv6 else [])
    for attempt in range(ATTEMPTS):
        made: list[_socket.socket] = []
        port = 0
        try:
            for kind in kinds:
                for family, address in loopback:
                    made.append(_socket.socket(family, kind | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC))
                    made[-1].bind((address, port))
                    port = made[-1].getsockname()[1]
                    if kind == _socket.SOCK_STREAM:
                        made[-1].listen(BACKLOG)
            return made, port
        except OSError:
            for sock in made:
                sock.close()
            if attempt == ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")
