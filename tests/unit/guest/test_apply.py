"""Several changes as one, on a plain directory with the real agent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pyro_mcp.protocol.channel import RemoteError

from .conftest import Client
from .workspace_client import apply, refused, sha, snapshot


@pytest.fixture
def agent(guarded: Client) -> Client:
    return guarded


def test_applies_all_kinds_of_changes(agent: Client, root: Path) -> None:
    (root / "d/e").mkdir(parents=True)
    (root / "d/e/gone").write_text("x")
    (root / "run").write_text("#!")
    (root / "old").write_text("moved")
    result = apply(
        agent,
        {"op": "write", "path": "n/e/w", "size": 3, "expected_sha256": None},
        {"op": "write", "path": "run", "size": 2, "expected_sha256": sha(b"#!")},
        {"op": "delete", "path": "d/e/gone"},
        {"op": "mode", "path": "run", "mode": 0o755},
        {"op": "rename", "path": "old", "to": "m/new", "mode": 0o700},
        data=b"abcde",
    )
    assert [entry["op"] for entry in result["entries"]] == ["write", "write", "delete", "mode", "rename"]
    assert result["entries"][0]["sha256"] == sha(b"abc")
    assert {path: content for path, (_, content) in snapshot(root).items() if content} == {
        "n/e/w": b"abc",
        "run": b"de",
        "m/new": b"moved",
    }
    assert (root / "run").stat().st_mode & 0o777 == 0o755
    assert (root / "m/new").stat().st_mode & 0o777 == 0o700
    assert not (root / "d").exists()


@pytest.mark.parametrize(
    "last",
    [
        {"op": "write", "path": "a", "size": 0, "expected_sha256": "0" * 64},
        {"op": "delete", "path": "missing"},
        {"op": "rename", "path": "b", "to": "x/y"},
        {"op": "write", "path": "link/f", "size": 0},
        {"op": "write", "path": "a/below/file", "size": 0},
        {"op": "delete", "path": "dir"},
        {"op": "write", "path": "dir", "size": 0},
        {"op": "write", "path": "link", "size": 0},
        {"op": "mode", "path": "link", "mode": 0o777},
    ],
)
def test_one_failure_takes_all_back(agent: Client, root: Path, last: dict[str, Any]) -> None:
    (root / "dir").mkdir()
    (root / "dir/inner").write_text("i")
    (root / "dir/other").write_text("o")
    (root / "link").symlink_to("dir")
    for name in "abc":
        (root / name).write_text(name)
        (root / name).chmod(0o640)
    before = snapshot(root)
    operations: list[dict[str, Any]] = [
        {"op": "write", "path": "a", "size": 3},
        {"op": "write", "path": "x/y", "size": 3},
        {"op": "mode", "path": "a", "mode": 0o777},
        {"op": "delete", "path": "c"},
        {"op": "rename", "path": "dir/inner", "to": "z/inner", "mode": 0o700},
        {"op": "write", "path": "c", "size": 1},
    ]
    with pytest.raises(RemoteError):
        apply(agent, *operations, last, data=b"onetwo3")
    assert snapshot(root) == before


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "explode", "path": "a"},
        {"op": "write", "path": "../a", "size": 0},
        {"op": "write", "path": "/workspace", "size": 0},
        {"op": "write", "path": "a"},
        {"op": "write", "path": "a", "size": 0, "mode": 0o4755},
        {"op": "mode", "path": "a"},
        {"op": "rename", "path": "a"},
        {"op": "delete", "path": "a", "surprise": 1},
        "delete",
    ],
)
def test_malformed_operations_are_refused(agent: Client, operation: Any) -> None:
    with refused("invalid_argument"):
        apply(agent, operation)
