"""Following a command: its limit is this host's, and nobody is given up who is alive or held up by the caller."""

from __future__ import annotations

import time
from typing import Any

import pytest

from pyro_mcp.engine.commands import run as module
from pyro_mcp.engine.commands.limit import GRACE_SECONDS, LATE_SECONDS, Limit, guest_limit
from pyro_mcp.protocol.channel import Data, StreamResult


class NeverStill:
    """A machine that never stands still."""

    seconds, refusal = 0.0, None

    def wait(self) -> None:
        pass


class Agent:
    """A stream and the machine behind it, in a time of its own. `answer(self)` is the next message, or None."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answer: Any, *, alive: bool = True) -> None:
        self.now, self.told = 0.0, []  # type: tuple[float, list[tuple[float, str]]]
        self.channel, self.heard, self._alive, self._answer = self, 0, alive, answer
        self.standstill = NeverStill()
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def receive(self, seconds: float) -> Data | StreamResult:
        message: Data | StreamResult | None = self._answer(self)
        if message is None:
            self.now += seconds
            message = self._answer(self)
        if message is None:
            raise TimeoutError
        return message

    def expire(self) -> None:
        self.told.append((self.now, "expire"))

    def cancel(self) -> None:
        self.told.append((self.now, "cancel"))

    def ping(self, seconds: float) -> None:
        self.told.append((self.now, "ping"))
        if not self._alive:
            self.now += seconds
            raise TimeoutError

    def follow(self, seconds: float, take: Any = lambda tag, data: None) -> dict[str, Any]:
        return module._follow(self, take, Limit(self, self, seconds))  # type: ignore[arg-type]


def test_a_command_is_told_to_end_when_this_hosts_clock_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = Agent(monkeypatch, lambda agent: StreamResult({"exit_code": 124}) if agent.told else None)
    assert agent.follow(15) == {"exit_code": 124}
    assert agent.told == [(15, "expire")]
    assert guest_limit(15) > 15 + GRACE_SECONDS / 4


def test_one_that_talks_without_end_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(agent: Agent) -> Data | StreamResult:
        agent.now += 0.5
        return StreamResult({"exit_code": 124}) if agent.told else Data(1, b"y")

    agent = Agent(monkeypatch, answer)
    assert agent.follow(15) == {"exit_code": 124}
    assert agent.told == [(15, "expire")]


def test_an_agent_that_is_alive_is_waited_for_and_its_late_answer_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = Agent(monkeypatch, lambda agent: StreamResult({"exit_code": 3}) if agent.now >= 100 else None)
    assert agent.follow(15) == {"exit_code": 3}
    assert agent.told == [(15, "expire"), (35, "cancel"), (35, "ping")]


def test_what_it_says_late_is_a_sign_of_life_as_good_as_a_pong(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(agent: Agent) -> StreamResult | None:
        agent.heard += 1
        return StreamResult({"exit_code": 3}) if agent.now >= 100 else None

    def ping(seconds: float) -> None:
        agent.heard += 1
        raise TimeoutError

    agent = Agent(monkeypatch, answer)
    monkeypatch.setattr(agent, "ping", ping)
    assert agent.follow(15) == {"exit_code": 3}


def test_an_agent_without_a_sign_of_life_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = Agent(monkeypatch, lambda agent: None, alive=False)
    with pytest.raises(TimeoutError, match="stopped answering"):
        agent.follow(15)
    assert agent.now == 15 + GRACE_SECONDS + 30


def test_an_agent_that_only_answers_pings_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = Agent(monkeypatch, lambda agent: None)
    with pytest.raises(TimeoutError, match="is alive and has not said within 120 s that it ended the command"):
        agent.follow(15)
    assert agent.now == 15 + GRACE_SECONDS + LATE_SECONDS


def test_a_caller_who_takes_nothing_for_long_makes_no_dead_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Output goes into a pager that nobody turns for an hour; what follows is still to come then."""
    left: list[Data | StreamResult] = [
        Data(1, b"page"),
        Data(1, b"page"),
        Data(1, b"rest"),
        StreamResult({"exit_code": 0}),
    ]

    def take(tag: int, data: bytes) -> None:
        agent.now += 3600 if data == b"page" else 0

    agent = Agent(monkeypatch, lambda agent: left.pop(0))
    assert agent.follow(50, take) == {"exit_code": 0}
