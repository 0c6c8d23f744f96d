"""Resolve: absolute names, a deadline, and a bounded number at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pyro_mcp.network import resolve
from pyro_mcp.network.addresses import Address, parse
from pyro_mcp.network.resolve import HostsFile, LookupFailed, NameUnknown, Resolver, lookup_host, read_hosts
from pyro_mcp.protocol.workers import Workers


def deaf(callback: Callable[[], None] | None) -> None:
    """Nobody cancels."""


def test_an_answer_and_its_errors() -> None:
    def lookup(name: str, family: int) -> list[Address]:
        if name == "unknown.test":
            raise NameUnknown(name)
        return [parse("8.8.8.8")] if family == 4 else []

    resolver = Resolver(lookup)
    assert resolver.lookup("a.test", 4, deaf) == [parse("8.8.8.8")]
    assert resolver.lookup("a.test", 6, deaf) == []
    with pytest.raises(NameUnknown):
        resolver.lookup("unknown.test", 4, deaf)


def test_one_that_hangs_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "LOOKUP_SECONDS", 0.1)
    monkeypatch.setattr(resolve, "AT_ONCE", 2)
    go = threading.Event()

    def lookup(name: str, family: int) -> list[Address]:
        go.wait(30)
        return []

    resolver = Resolver(lookup)
    for _ in range(2):
        with pytest.raises(LookupFailed, match="no answer in time"):
            resolver.lookup("slow.test", 4, deaf)
    with pytest.raises(LookupFailed, match="too many"):
        resolver.lookup("slow.test", 4, deaf)
    go.set()
    monkeypatch.setattr(resolve, "LOOKUP_SECONDS", 30.0)
    assert resolver.lookup("quick.test", 4, deaf) == []


def test_one_for_which_there_is_no_thread_gives_its_place_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(resolve, "AT_ONCE", 1)
    monkeypatch.setattr(resolve, "LOOKUP_SECONDS", 5.0)
    resolver = Resolver(lambda name, family: [parse("8.8.8.8")])
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(LookupFailed, match="thread"):
            resolver.lookup("a.test", 4, deaf)
    assert resolver.lookup("a.test", 4, deaf) == [parse("8.8.8.8")]


def test_one_machines_slow_names_take_no_others_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look-up goes on after its caller has left, and its place with it; but it is the caller's own."""
    monkeypatch.setattr(resolve, "LOOKUP_SECONDS", 0.05)
    go = threading.Event()
    workers = Workers()

    def lookup(name: str, family: int) -> list[Address]:
        if name == "slow.test":
            go.wait(30)
        return [parse("8.8.8.8")]

    hog, other = Resolver(lookup, workers), Resolver(lookup, workers)
    for _ in range(resolve.AT_ONCE):
        with pytest.raises(LookupFailed, match="no answer in time"):
            hog.lookup("slow.test", 4, deaf)
    with pytest.raises(LookupFailed, match="too many"):
        hog.lookup("quick.test", 4, deaf)
    monkeypatch.setattr(resolve, "LOOKUP_SECONDS", 30.0)
    assert other.lookup("quick.test", 4, deaf) == [parse("8.8.8.8")]
    go.set()


def test_one_that_nobody_wants_any_more_is_not_waited_for() -> None:
    go = threading.Event()

    def lookup(name: str, family: int) -> list[Address]:
        go.wait(30)
        return []

    def cancel_at_once(callback: Callable[[], None] | None) -> None:
        if callback is not None:
            callback()

    with pytest.raises(LookupFailed):
        Resolver(lookup).lookup("slow.test", 4, cancel_at_once)
    go.set()


def test_the_hosts_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "hosts"
    hosts = HostsFile(path)
    monkeypatch.setattr(resolve, "hosts", hosts)
    assert hosts.get("a.test") == []
    path.write_text(
        "93.184.216.34 A.test other.test # note\nbroken line\n::5 six.test a.test\nfe80::1%lo scoped.test\n"
    )
    assert lookup_host("a.test", 4) == [parse("93.184.216.34")]
    assert lookup_host("other.test", 6) == []
    assert lookup_host("a.test", 6) == [parse("::5")]
    assert hosts.get("scoped.test") == []
    path.write_text("10.0.0.1 a.test and a longer line\n")
    assert lookup_host("a.test", 4) == [parse("10.0.0.1")]


def test_names_are_looked_up_as_absolute_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def getaddrinfo(host: object, *_: object) -> list[object]:
        asked.append(host)
        return [(None, None, None, "", ("8.8.8.8", 0)), (None, None, None, "", ("8.8.8.8", 0))]

    monkeypatch.setattr(resolve.socket, "getaddrinfo", getaddrinfo)
    assert lookup_host("registry.test", 4) == [parse("8.8.8.8")]
    assert asked == [b"registry.test."]


def test_what_is_no_line_of_hosts_is_left_out() -> None:
    assert read_hosts("\n#\n 1.2.3.4\n1.2.3 a\n1.2.3.4 b\tc\n") == {"b": [parse("1.2.3.4")], "c": [parse("1.2.3.4")]}
