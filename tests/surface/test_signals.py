"""Whoever starts the node: its guests, its commands and itself have no signal ignored and none blocked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

PYTHONS_OWN = {signal.SIGPIPE, signal.SIGXFSZ}
TOUCHY = """
import json, signal, sys
every = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
if sys.argv[1] == "ignored":
    for number in every:
        signal.signal(number, signal.SIG_IGN)
else:
    signal.pthread_sigmask(signal.SIG_BLOCK, every)

from pyro_mcp import Pyro
from pyro_mcp.surfaces.client import call_running_node

with Pyro() as pyro:
    made = pyro.create_workspace(environment="debian:12", allow_host_compat=True)
    words = ["grep", "-E", "^Sig(Ign|Blk)", "/proc/self/status"]
    said = pyro.exec_workspace(made.workspace_id, command=words).stdout
    node = call_running_node(pyro._client.settings, "node_status")
    print(json.dumps([said, node["pid"], node["machines"][0]["pid"]]))
"""


@pytest.fixture(params=["guest", "hosted"])
def fresh(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """The variables of a state directory whose node has not been started."""
    values = request.getfixturevalue("environ" if request.param == "guest" else "hosted_environ")
    with tempfile.TemporaryDirectory(prefix="pyro-signals-") as directory:
        environ = {**values, "PYRO_STATE_DIR": f"{directory}/state"}
        yield environ
        stop = [sys.executable, "-m", "pyro_mcp", "node", "stop", "--force"]
        subprocess.run(stop, env=environ, check=True, capture_output=True, timeout=60)


@pytest.mark.parametrize("how", ["ignored", "blocked"])
def test_a_starter_that_ignores_or_blocks_all_signals_hands_nothing_down(fresh: dict[str, str], how: str) -> None:
    argv = [sys.executable, "-c", TOUCHY, how]
    done = subprocess.run(argv, env=fresh, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    command, node, machine = json.loads(done.stdout)
    assert sets_of(command) == {"SigIgn": set(), "SigBlk": set()}
    assert sets_of(Path(f"/proc/{node}/status").read_text()) == {"SigIgn": PYTHONS_OWN, "SigBlk": set()}
    # QEMU and the agent ignore or block what they handle in their own ways, and nothing else.
    inherited = sets_of(Path(f"/proc/{machine}/status").read_text())["SigIgn"] - PYTHONS_OWN
    assert inherited == set()


def test_a_command_line_under_nohup_outlives_its_terminal(environ: dict[str, str]) -> None:
    words = [sys.executable, "-m", "pyro_mcp", "run", "debian:12", "--", "sh", "-c", "echo up; sleep 1; echo done"]
    child = subprocess.Popen(
        ["nohup", *words], env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"up\n"
    os.kill(child.pid, signal.SIGHUP)
    assert child.communicate(timeout=60)[0] == b"done\n"
    assert child.returncode == 0


def sets_of(status: str) -> dict[str, set[int]]:
    """What a process ignores and blocks, from its /proc/PID/status."""
    # 32 and 33 are the C library's own: its posix_spawn hands 32 down ignored, and no program can set them.
    settable = signal.valid_signals()
    found = {}
    for line in status.splitlines():
        name, _, mask = line.partition(":")
        if name in ("SigIgn", "SigBlk"):
            found[name] = {number for number in settable if int(mask, 16) >> (number - 1) & 1}
    return found
