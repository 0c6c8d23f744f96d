"""The node is killed while a command goes on by itself: the next one follows it to its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.guest

PYRO = [sys.executable, "-m", "pyro_mcp"]
Pyro = Callable[..., dict[str, Any]]
SCRIPT = "echo begun; i=0; while [ ! -e go ]; do i=$((i+1)); sleep 0.1; done; seq 1 200000; echo $PHRASE >&2; exit 9"


@pytest.fixture(params=["guest", "hosted"])
def pyro(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pyro]:
    """The command line over a state directory of this test's own."""
    hosted = request.param == "hosted"
    environ = request.getfixturevalue("hosted_environ" if hosted else "environ")
    environ = {**environ, "PYRO_STATE_DIR": str(tmp_path / "state")}

    def say(*words: str) -> dict[str, Any]:
        more = ["--allow-host-compat"] if hosted and words[1] == "create" else []
        done = subprocess.run(
            [*PYRO, *words[:2], "--json", *more, *words[2:]], env=environ, capture_output=True, text=True, timeout=120
        )
        answer: dict[str, Any] = json.loads(done.stdout)
        assert "error" not in answer, answer
        return answer

    yield say
    subprocess.run([*PYRO, "node", "stop", "--force"], env=environ, check=True, capture_output=True, timeout=60)


def kill_node(pyro: Pyro) -> None:
    os.kill(pyro("node", "status")["pid"], signal.SIGKILL)


def test_a_command_that_goes_on_by_itself_outlives_the_node(pyro: Pyro) -> None:
    pyro("workspace", "create", "--name", "w", "--secret", "PHRASE=correct horse battery", "debian:12")
    words = ["--wait-seconds", "1", "--timeout-seconds", "120", "--secret-env", "PHRASE=PHRASE"]
    left = pyro("workspace", "exec", *words, "w", "--", "sh", "-c", SCRIPT)
    assert left["state"] == "running"
    first = pyro("node", "status")["pid"]
    kill_node(pyro)
    status = pyro("workspace", "status", "w")
    assert (status["running_command_count"], status["last_command"]["state"]) == (1, "running")
    assert pyro("node", "status")["pid"] != first
    pyro("workspace", "exec", "w", "--", "touch", "go")
    told, errors, cursor = "", "", "0:0"
    deadline = time.monotonic() + 100
    while True:
        (entry,) = pyro("workspace", "logs", "--sequence", "1", "--cursor", cursor, "--wait-seconds", "10", "w")[
            "entries"
        ]
        told, errors, cursor = told + entry["stdout"], errors + entry["stderr"], entry["next_cursor"]
        if entry["state"] != "running" and not entry["stdout"]:
            break
        assert time.monotonic() < deadline
    assert (entry["state"], entry["exit_code"]) == ("finished", 9)
    assert told == "begun\n" + "".join(f"{number}\n" for number in range(1, 200_001))
    assert errors == "[secret]\n"
    left = pyro("workspace", "exec", "--wait-seconds", "1", "w", "--", "sleep", "300")
    kill_node(pyro)
    (ended,) = pyro("workspace", "logs", "--sequence", str(left["sequence"]), "--end", "w")["entries"]
    assert (ended["state"], ended["signal"]) == ("ended", "SIGKILL")
    pyro("workspace", "delete", "w")
