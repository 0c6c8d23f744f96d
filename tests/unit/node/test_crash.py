"""A node killed before every single effect of an operation on a workspace: the next finds it whole or absent.

Not only the named fault points are tried but each file made, renamed or removed, each flush and each statement to the
store, until the operation completes. After each kill `crashlab.World.check` looks at all that must hold.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from sweeps import failed_at_every_effect, killed_at_every_effect

QUICK, LONG = ["push", "patch", "snapshot", "export", "stop", "start"], ["create", "reset", "export-file", "delete"]
"""What has the most steps runs with the long tests; `test_adopt_workspaces` has its named ones always."""


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
    assert failed_at_every_effect(tmp_path, operation, mode, "host") >= 3
