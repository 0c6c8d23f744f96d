"""Published ports of services: they live as long as the service, whatever becomes of node and machine."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleetlab import engine_at
from servicelab import REF, a_workspace, start, stop, until

from pyro_mcp.engine.engine import Engine
from pyro_mcp.errors import Conflict, PyroError
from pyro_mcp.model.service import StartedService
from pyro_mcp.node.adopt import reconcile

ECHO = (
    "import socket,sys\n"
    "s=socket.create_server(('127.0.0.1',int(sys.argv[1])))\n"
    "while 1:\n c,_=s.accept(); c.sendall(b'hello '+c.recv(99)); c.close()\n"
)


@pytest.fixture
def open_engine(tmp_path: Path) -> Iterator[Engine]:
    """One whose workspace may publish ports."""
    engine = a_workspace(tmp_path / "open", "egress+published-ports")
    yield engine
    engine.lifecycle.delete(REF)
    engine.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def talk(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(b"you")
        answer = b""
        while piece := connection.recv(99):
            answer += piece
        return answer


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def serve(engine: Engine, port: int, *published: int | str, name: str = "web") -> StartedService:
    return start(
        engine,
        ["python3", "-c", ECHO, str(port)],
        name=name,
        readiness={"tcp": f"127.0.0.1:{port}"},
        published_ports=list(published),
    )


def test_a_published_port_lives_as_long_as_the_service(open_engine: Engine) -> None:
    inside, chosen = free_port(), free_port()
    begun = serve(open_engine, inside, f"{chosen}:{inside}")
    (port,) = begun.published_ports
    assert (port.guest_port, port.host_port, port.host, port.protocol) == (inside, chosen, "127.0.0.1", "tcp")
    assert talk(chosen) == b"hello you"
    stop(open_engine)
    assert is_free(chosen)
    assert open_engine.services.status(REF, "web").published_ports == []
    again = serve(open_engine, inside, inside)
    assert again.published_ports[0].host_port != 0
    assert again.pid is not None
    os.kill(again.pid, signal.SIGKILL)
    until(lambda: is_free(again.published_ports[0].host_port))


def test_a_taken_port_is_told_before_anything_is_started(open_engine: Engine) -> None:
    free = free_port()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Conflict, match=str(port)):
            start(open_engine, "touch started; sleep 300", published_ports=[f"{free}:1", f"{port}:2"])
    assert is_free(free)
    assert open_engine.services.listing(REF).count == 0
    assert not (Path(open_engine.lifecycle.status(REF).metadata["host_directory"]) / "started").exists()


def test_a_service_that_fails_frees_its_ports(open_engine: Engine) -> None:
    port = free_port()
    assert start(open_engine, "exit 3", published_ports=[f"{port}:80"]).state == "failed"
    assert is_free(port)


def test_ports_are_open_again_after_the_node(tmp_path: Path) -> None:
    first = a_workspace(tmp_path / "state", "egress+published-ports")
    inside, other = free_port(), free_port()
    kept = serve(first, inside, inside).published_ports[0].host_port
    taken = serve(first, other, other, name="other").published_ports[0].host_port
    first.close()
    assert is_free(kept)
    with socket.create_server(("127.0.0.1", taken)):
        second = engine_at(tmp_path / "state")
        try:
            reconcile(second)
            (port,) = second.services.status(REF, "web").published_ports
            assert (port.host_port, port.problem) == (kept, None)
            assert talk(kept) == b"hello you"
            (port,) = second.services.status(REF, "other").published_ports
            assert port.host_port == taken
            assert str(taken) in (port.problem or "")
        finally:
            second.lifecycle.delete(REF)
            second.close()
    assert is_free(kept)


def test_a_dead_machine_frees_the_ports(open_engine: Engine) -> None:
    inside = free_port()
    port = serve(open_engine, inside, inside).published_ports[0].host_port
    os.kill(open_engine.fleet.live(open_engine.registry.find(REF).machine_id).pid, signal.SIGKILL)
    until(lambda: is_free(port))


def test_nothing_is_left_of_a_deleted_workspace(tmp_path: Path) -> None:
    before = threading.active_count()
    engine = a_workspace(tmp_path / "state", "egress+published-ports")
    inside = free_port()
    serve(engine, inside, inside)
    engine.lifecycle.delete(REF)
    with pytest.raises(PyroError):
        engine.services.listing(REF)
    engine.close()
    until(lambda: threading.active_count() == before)
