"""What a pipe hears of long work: each step once, and that it still goes on only after minutes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from pyro_mcp.surfaces.cli import progress
from pyro_mcp.surfaces.cli.progress import ProgressView


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time; put another in its place."""
    now = [100.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_a_pipe_hears_a_step_once_and_again_after_minutes(
    capsys: pytest.CaptureFixture[str], passed: list[float]
) -> None:
    view = ProgressView(live=False)
    for seconds in range(5, 130, 5):
        passed[0] = 100.0 + seconds
        view.update(f"Starting ({seconds} s)", None)
    view.update("Keeping", None)
    view.stop()
    assert capsys.readouterr().err.splitlines() == [
        "pyro: Starting (5 s)",
        "pyro: Starting (65 s)",
        "pyro: Starting (125 s)",
        "pyro: Keeping",
    ]


@pytest.mark.parametrize("live", [False, True])
def test_without_a_word_nothing_is_shown(capsys: pytest.CaptureFixture[str], passed: list[float], live: bool) -> None:
    view = ProgressView(live=live)
    passed[0] += 10
    view.update("", None)
    view.stop()
    assert capsys.readouterr().err == ""
