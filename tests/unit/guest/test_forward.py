"""tcp_connect over the real agent on the host. The verb's own rules are tested with the publisher, in unit/network."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

import pytest

from pyro_mcp.guest.net.forward import tcp_connect
from pyro_mcp.protocol.channel import ChannelClosed, Data, End, Event, RemoteError, StreamResult

from .conftest import Client, until


def test_the_hosted_agent_dials_its_loopback_and_keeps_nothing(agent: Client, open_fds: Callable[[], int]) -> None:
    before = open_fds()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        stream = agent.channel.open("tcp_connect", {"host": "localhost", "port": port})
        assert isinstance(stream.receive(20), Event)
        server, _ = listener.accept()
        with server:
            stream.send(b"question")
            assert server.recv(100) == b"question"
            server.sendall(b"answer")
            message = stream.receive(10)
            assert isinstance(message, Data)
            assert message.data == b"answer"
            server.shutdown(socket.SHUT_WR)
            assert isinstance(stream.receive(10), End)
            stream.end()
            answer = stream.receive(10)
            assert isinstance(answer, StreamResult)
            assert answer.value == {"sent": 8, "received": 6}
    until(lambda: open_fds() == before)
    with pytest.raises(RemoteError) as caught:
        agent.channel.call("tcp_connect", {"host": "localhost", "port": port}, timeout=10)
    assert caught.value.payload["code"] == "not_found"
    until(lambda: open_fds() == before)


def test_its_connections_end_with_the_agent(agent: Client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stream = agent.channel.open("tcp_connect", {"host": "127.0.0.1", "port": listener.getsockname()[1]})
        assert isinstance(stream.receive(20), Event)
        server, _ = listener.accept()
        with server:
            server.settimeout(10)
            os.kill(agent.process.pid, 9)
            # The kernel closes for the dead: an end, since nothing was left unread.
            assert server.recv(1) == b""


def test_one_whose_peer_has_gone_before_it_began_keeps_nothing() -> None:
    class Gone:
        cancelled = False

        def __init__(self, port: int) -> None:
            self.params = {"host": "127.0.0.1", "port": port}

        def watch(self, callback: Callable[[], None] | None) -> None:
            """Nothing ever comes."""

        def event(self, value: object) -> None:
            raise ChannelClosed("the node is gone")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(ChannelClosed):
            tcp_connect(Gone(listener.getsockname()[1]))  # type: ignore[arg-type]
        assert len(os.listdir("/proc/self/fd")) == before
        server, _ = listener.accept()
        with server, pytest.raises(ConnectionResetError):
            server.recv(1)
