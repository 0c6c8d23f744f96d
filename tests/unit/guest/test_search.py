"""Search on a plain directory with the real agent."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import Client, until
from .workspace_client import refused


@pytest.fixture
def agent(guarded: Client) -> Client:
    return guarded


def search(agent: Client, pattern: str, **params: Any) -> dict[str, Any]:
    return agent.channel.call("file_search", {"pattern": pattern, "path": ".", **params}, timeout=30)


def test_searches_lines(agent: Client, root: Path) -> None:
    (root / "src").mkdir()
    (root / "src/a.py").write_bytes(b"def f():\r\n    pass\n\ndef g(): pass")
    (root / "b.md").write_text("def h\n" + "x" * 5000 + "needle")
    (root / "bin").write_bytes(b"def\0")
    (root / ".git").mkdir()
    (root / ".git/x").write_text("def git")
    (root / "out").symlink_to("../outside/secret")
    found = search(agent, r"^def (\w)")
    assert [(m["path"], m["line"], m["text"]) for m in found["matches"]] == [
        ("/workspace/b.md", 1, "def h"),
        ("/workspace/src/a.py", 1, "def f():"),
        ("/workspace/src/a.py", 4, "def g(): pass"),
    ]
    assert not found["truncated"]
    assert [m["line"] for m in search(agent, "DEF g", ignore_case=True, glob="*.py")["matches"]] == [4]
    assert [m["text"] for m in search(agent, "git", path=".git")["matches"]] == ["def git"]
    (match,) = search(agent, "needle", max_line=100)["matches"]
    assert "needle" in match["text"]
    assert len(match["text"]) <= 102
    assert not search(agent, "canary")["matches"]
    assert search(agent, "def", limit=1)["truncated"]
    assert [m["line"] for m in search(agent, "pass", path="src/a.py")["matches"]] == [2, 4]
    assert [m["line"] for m in search(agent, "^$", path="src/a.py")["matches"]] == [3]


def test_a_bad_pattern_is_refused(agent: Client) -> None:
    for params in ({"pattern": "("}, {"pattern": "x", "glob": "[z-a]"}, {"pattern": "x", "glob": "{a"}):
        with refused("invalid_argument"):
            agent.channel.call("file_search", {"path": ".", **params})


def children(agent: Client) -> bytes:
    return subprocess.run(["pgrep", "-P", str(agent.process.pid)], capture_output=True, check=False).stdout


def test_a_runaway_expression_stops_and_blocks_nobody(agent: Client, root: Path, open_fds: Callable[[], int]) -> None:
    (root / "f").write_text("a" * 40 + "b")
    search(agent, "a")
    before = open_fds()
    stream = agent.channel.open("file_search", {"pattern": "(a+)+$", "path": ".", "timeout_seconds": 60})
    until(lambda: children(agent))
    assert agent.exec("true").exit_code == 0
    assert stream.try_receive() is None
    stream.cancel()
    list(stream.messages())
    stream = agent.channel.open("file_search", {"pattern": "(a+)+$", "path": ".", "timeout_seconds": 1})
    result = list(stream.messages())[-1].value  # type: ignore[union-attr]
    assert result["timed_out"]
    assert result["truncated"]
    until(lambda: open_fds() == before)
    assert not children(agent)
