"""What a model pays for an answer: short, and still with all that is news."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from pyro_mcp import Pyro

pytestmark = pytest.mark.guest


@pytest.fixture(scope="module")
def own_environ(cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A state directory with no other workspaces in it."""
    state = tmp_path_factory.mktemp("answers") / "state"
    values = {**os.environ, "PYRO_STATE_DIR": str(state), "PYRO_CACHE_DIR": str(cache_dir)}
    yield values
    stop = [sys.executable, "-m", "pyro_mcp", "node", "stop", "--force"]
    subprocess.run(stop, env=values, check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def model(speaking: Any, own_environ: dict[str, str]) -> Iterator[Any]:
    surface = speaking("mcp-auto", own_environ)
    yield surface
    surface.close()


@pytest.fixture(scope="module")
def sdk(own_environ: dict[str, str]) -> Iterator[Pyro]:
    with mock.patch.dict(os.environ, own_environ):
        pyro = Pyro(state_dir=own_environ["PYRO_STATE_DIR"], cache_dir=own_environ["PYRO_CACHE_DIR"])
    yield pyro
    pyro.close()


def size(answer: Any) -> int:
    return len(json.dumps(answer, ensure_ascii=False))


def test_answers_take_at_most_half_of_what_they_took(model: Any, sdk: Pyro) -> None:
    """Characters; the bounds are half of what was measured before (hosts page, 27 November)."""
    created = model.call("workspace_create", {"environment": "debian:12"})
    ref = created["workspace_id"]
    named = {"workspace_id": ref}
    took = {"create": size(created), "exec": size(model.call("workspace_exec", {**named, "command": "true"}))}
    took["empty diff"] = size(model.call("workspace_diff", named))
    for command in ("make", "ls -la", "false", "python3 -m pytest -q"):
        model.call("workspace_exec", {**named, "command": command})
    took["status"] = size(model.call("workspace_status", named))
    took["summary"] = size(model.call("workspace_summary", named))
    others = [sdk.create_workspace(environment="debian:12", name=f"other {number}") for number in range(4)]
    took["list of five"] = size(model.call("workspace_list", {}))
    for one in [ref, *(other.workspace_id for other in others)]:
        sdk.delete_workspace(one)
    print(took)
    bounds = {"create": 480, "status": 638, "exec": 242, "empty diff": 136, "summary": 1567, "list of five": 3125}
    assert {name: most for name, most in bounds.items() if took[name] > most} == {}
