"""An operation broken at its every effect, one node's life after the other, over `crashlab`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import crashlab

LIMIT = 400


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


def failed_at_every_effect(home: Path, operation: str, mode: str, where: str) -> int:
    """How often the operation was refused, always for the right reason, before there was nothing left to fail."""
    code, refused = {"ENOSPC": "disk_full", "EIO": "internal"}[mode], 0
    for number in range(1, LIMIT):
        told = attempt(home, operation, number, mode, where)
        assert told is not None
        if told["outcome"] != "done":
            refused += 1
            assert told["outcome"] == code, told
            assert told["hint"] or mode == "EIO", told
        if told["step"] is None:
            attempt(home, "end", 1, mode, where)
            return refused
    raise AssertionError(f"{operation} never completed")
