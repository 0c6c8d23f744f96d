"""The guest's wall clock follows the host's, whose messages come late."""

from __future__ import annotations

import time

import pytest

from pyro_mcp.guest.boot.host_time import HostTime

SECOND = 1_000_000_000


class Guest:
    """A guest's two clocks, and its idea of the host's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monotonic, self.wall = 5 * SECOND, 0
        monkeypatch.setattr(time, "monotonic_ns", lambda: self.monotonic)
        monkeypatch.setattr(time, "time_ns", lambda: self.wall)
        monkeypatch.setattr(time, "clock_settime_ns", lambda clock, value: setattr(self, "wall", value))
        self.host = HostTime()

    def pass_time(self, seconds: float) -> None:
        self.monotonic += int(seconds * SECOND)
        self.wall += int(seconds * SECOND)


@pytest.fixture
def guest(monkeypatch: pytest.MonkeyPatch) -> Guest:
    return Guest(monkeypatch)


def test_what_was_set_late_is_mended_by_what_comes_quicker(guest: Guest) -> None:
    guest.host.set(1000 * SECOND)  # Sent 3 s ago.
    guest.pass_time(7)
    guest.host.catch_up(1010 * SECOND)
    assert guest.wall == 1010 * SECOND
    guest.pass_time(1)
    guest.host.catch_up(1009 * SECOND)  # Itself 2 s late.
    assert guest.wall == 1011 * SECOND


def test_time_that_the_guest_has_missed_is_made_up(guest: Guest) -> None:
    guest.host.set(1000 * SECOND)
    guest.pass_time(10)
    guest.host.catch_up(4000 * SECOND)
    assert guest.wall == 4000 * SECOND


def test_a_clock_that_was_set_on_purpose_stays_as_far_off(guest: Guest) -> None:
    guest.host.set(1000 * SECOND)
    guest.wall = 50 * SECOND
    guest.pass_time(10)
    guest.host.catch_up(1010 * SECOND)
    assert guest.wall == 60 * SECOND
    guest.host.catch_up(1015 * SECOND)
    assert guest.wall == 65 * SECOND


def test_before_it_is_set_nothing_is_known(guest: Guest) -> None:
    guest.host.catch_up(1000 * SECOND)
    assert guest.wall == 0
