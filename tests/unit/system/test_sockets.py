import stat
from pathlib import Path

import pytest

from pyro_mcp.system.sockets import connect_unix, listen_unix


def test_paths_beyond_the_kernels_limit_work(tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 200)
    directory.mkdir()
    path = directory / "agent.sock"
    with listen_unix(path) as listener, connect_unix(path) as client:
        peer, _ = listener.accept()
        with peer:
            client.sendall(b"hello")
            assert peer.recv(5) == b"hello"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_stale_socket_is_replaced_and_a_dead_one_refuses(tmp_path: Path) -> None:
    path = tmp_path / "s"
    listen_unix(path).close()
    with pytest.raises(ConnectionRefusedError):
        connect_unix(path)
    with listen_unix(path):
        connect_unix(path).close()
