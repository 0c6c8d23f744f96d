"""The same over real guests: the node killed before every effect, and the host's disk failing at every one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from pyro_mcp.machines.driver import GuestRuntime, Image

pytestmark = [pytest.mark.guest, pytest.mark.slow]


@pytest.fixture(scope="module")
def sweeps(runtime: GuestRuntime, environment: Image) -> Iterator[ModuleType]:
    support = str(Path(__file__).parents[1] / "unit" / "support")
    sys.path.insert(0, support)
    import sweeps

    yield sweeps
    sys.path.remove(support)


@pytest.mark.parametrize("operation", ["create", "snapshot", "reset", "export", "export-disk", "delete"])
def test_killed_at_every_effect_it_is_whole_or_absent(tmp_path: Path, sweeps: ModuleType, operation: str) -> None:
    assert sweeps.killed_at_every_effect(tmp_path, operation, "guest") >= 10


@pytest.mark.parametrize(("operation", "mode"), [("create", "ENOSPC"), ("create", "EIO"), ("export-disk", "ENOSPC")])
def test_failed_at_every_effect_it_is_refused(tmp_path: Path, sweeps: ModuleType, operation: str, mode: str) -> None:
    assert sweeps.failed_at_every_effect(tmp_path, operation, mode, "guest") >= 5
