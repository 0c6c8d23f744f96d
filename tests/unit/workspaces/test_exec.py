"""Following a command: what is the agent's fault, and what is the caller's."""

from __future__ import annotations

import time

import pytest

from pyro_mcp.protocol.channel import Data, Result
from pyro_mcp.workspaces import exec as module


def test_a_caller_who_takes_nothing_for_long_makes_no_dead_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Output goes into a pager that nobody turns for an hour; what follows is still to come then."""
    now = 0.0

    class Stream:
        """Its agent needs a second for each message."""

        left = [Data(1, b"page"), Data(1, b"rest"), Result({"exit_code": 0})]

        def receive(self, seconds: float) -> Data | Result:
            nonlocal now
            if seconds < 1:
                raise TimeoutError
            now += 1
            return self.left.pop(0)

    def take(tag: int, data: bytes) -> None:
        nonlocal now
        now += 3600 if data == b"page" else 0

    monkeypatch.setattr(time, "monotonic", lambda: now)
    assert module._follow(Stream(), take, 50.0) == {"exit_code": 0}  # type: ignore[arg-type]


def test_an_agent_that_says_nothing_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Silent:
        def receive(self, seconds: float) -> None:
            asked.append(seconds)
            raise TimeoutError

    monkeypatch.setattr(time, "monotonic", lambda: 20.0)
    with pytest.raises(TimeoutError):
        module._follow(Silent(), lambda tag, data: None, 50.0)  # type: ignore[arg-type]
    assert asked == [30.0]
