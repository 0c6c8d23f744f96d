"""`node status` waits for nothing that a node has to wait for."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator

import pytest

from pyro_mcp import Pyro
from pyro_mcp.node.spawn import ensure_node
from pyro_mcp.settings import Settings
from pyro_mcp.surfaces.client import call_running_node
from pyro_mcp.system.process import wait_pidfd


@pytest.fixture
def settings(cache_dir: object) -> Iterator[Settings]:
    with tempfile.TemporaryDirectory(prefix="pyro-status-") as directory:
        settings = Settings.load(state_dir=f"{directory}/state", cache_dir=cache_dir)
        yield settings
        call_running_node(settings, "node_stop", {"force": True})


def test_it_is_answered_while_a_new_node_waits_for_a_machine_that_does_not_answer(settings: Settings) -> None:
    with Pyro(state_dir=settings.state_dir, cache_dir=settings.cache_dir) as pyro:
        made = pyro.create_workspace(environment="debian:12").workspace_id
        before = call_running_node(settings, "node_status")
        assert before is not None
        machine = before["machines"][0]["pid"]
        os.kill(machine, signal.SIGSTOP)
        try:
            gone = os.pidfd_open(before["pid"])
            os.kill(before["pid"], signal.SIGKILL)
            assert wait_pidfd(gone, 60)
            os.close(gone)
            starting = threading.Thread(target=lambda: ensure_node(settings).close())
            starting.start()
            status = None
            while status is None or status["pid"] == before["pid"]:
                assert starting.is_alive(), "it never had to wait"
                time.sleep(0.02)
                status = call_running_node(settings, "node_status")
            assert starting.is_alive(), "the answer came only when the machine had been given up"
            assert status["machine_count"] == 1
        finally:
            os.kill(machine, signal.SIGCONT)
        starting.join(60)
        assert pyro.exec_workspace(made, command=["true"]).exit_code == 0
        after = call_running_node(settings, "node_status")
        assert after is not None
        assert after["machines"][0]["pid"] == machine
