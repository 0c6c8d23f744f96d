"""A node killed before every single effect of an operation on a workspace: the next finds it whole or absent.

Not only the named fault points are tried but each file made, renamed or removed, each flush and each statement to the
store, until the operation completes. After each kill `crashlab.World.check` looks at all that must hold.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import crashlab
import pytest

LIMIT = 400
QUICK, LONG = ["push", "patch", "snapshot", "export", "stop", "start"], ["create", "reset", "export-file", "delete"]
"""What has the most steps runs with the long tests; `test_adopt_workspaces` has its named ones always."""


def attempt(home: Path, operation: str, number: int, mode: str, where: str) -> dict[str, object] | None:
    """One node's life in `home`; None when it was killed. What it finds wrong fails the test."""
    argv = [sys.executable, crashlab.__file__, str(home), operation, str(number), mode, where]
    child = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    if child.returncode == -signal.SIGKILL and mode == "kill":
        return None
    assert child.returncode == 0, f"{operation} {number} {mode}:\n{child.stderr[-3000:]}"
    return json.loads(child.stdout.splitlines()[-1]) if child.stdout else {}


def killed_at_every_effect(home: Path, operation: str, where: str) -> int:
    """How often the node was killed before the operation completed."""
    for number in range(1, LIMIT):
        told = attempt(home, operation, number, "kill", where)
        if told is not None:
            assert told["outcome"] == "done", told
            attempt(home, "end", 1, "kill", where)
            return number - 1
    raise AssertionError(f"{operation} never completed")


@pytest.mark.parametrize("operation", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in LONG)])
def test_killed_at_every_effect_it_is_whole_or_absent(tmp_path: Path, operation: str) -> None:
    assert killed_at_every_effect(tmp_path, operation, "host") >= 5


@pytest.mark.parametrize(
    ("operation", "mode"),
    [
        ("snapshot", "ENOSPC"),
        ("export", "ENOSPC"),
        *(pytest.param(name, "ENOSPC", marks=pytest.mark.slow) for name in ("create", "reset", "start", "export-file")),
        *(pytest.param(name, "EIO", marks=pytest.mark.slow) for name in (*LONG, "snapshot", "start", "export")),
    ],
)
def test_failed_at_every_effect_it_is_refused_as_a_whole(tmp_path: Path, operation: str, mode: str) -> None:
    code, refused = {"ENOSPC": "disk_full", "EIO": "internal"}[mode], 0
    for number in range(1, LIMIT):
        told = attempt(tmp_path, operation, number, mode, "host")
        assert told is not None
        if told["outcome"] != "done":
            refused += 1
            assert told["outcome"] == code, told
            assert told["hint"] or mode == "EIO", told
        if told["step"] is None:
            break
    attempt(tmp_path, "end", 1, mode, "host")
    assert refused >= 3
