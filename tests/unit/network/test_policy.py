"""Policy: closed whenever in doubt; an empty list allows nothing; each refusal names what would allow it."""

from __future__ import annotations

import pytest

from pyro_mcp.errors import InvalidArgument
from pyro_mcp.network.addresses import parse
from pyro_mcp.network.answers import KEPT_MAX, KEPT_SECONDS, Answers
from pyro_mcp.network.policy import Policy, Refusal


def test_names() -> None:
    assert Policy("egress").refuse_name("any.test") is None
    assert Policy("egress", allow_hosts=()).refuse_name("any.test") is not None
    narrow = Policy.read("egress", ["A.test", "*.b.test"])
    assert narrow.refuse_name("a.test") is None
    assert narrow.refuse_name("x.b.test") is None
    assert narrow.refuse_name("b.test") == Refusal(
        "it is not among the allowed host names", "<<create_workspace.allow_hosts=b.test>>"
    )
    assert Policy("off").refuse_name("any.test") is not None


def test_addresses() -> None:
    egress = Policy("egress")
    assert egress.refuse_address(parse("8.8.8.8"), "away") is None
    assert egress.refuse_address(parse("8.8.8.8"), "here") == Refusal(
        "it is an address of this host", "<<create_workspace.allow_addresses=8.8.8.8>>"
    )
    assert egress.refuse_address(parse("10.0.0.1"), "away") == Refusal(
        "it is a private address", "<<create_workspace.allow_addresses=10.0.0.1>>"
    )
    multicast = egress.refuse_address(parse("224.0.0.1"), "here")
    assert multicast is not None
    assert multicast.hint is None
    assert Policy("off").refuse_address(parse("8.8.8.8"), "away") is not None


def test_opening_a_network_does_not_open_this_host() -> None:
    opened = Policy.read("egress", None, ["10.0.0.0/8"])
    assert opened.refuse_address(parse("10.0.0.1"), "away") is None
    assert opened.refuse_address(parse("10.0.0.1"), "here") is not None
    assert opened.refuse_address(parse("192.168.0.1"), "away") is not None
    exact = Policy.read("egress", None, ["10.0.0.1", "127.0.0.1"])
    assert exact.refuse_address(parse("10.0.0.1"), "here") is None
    assert exact.refuse_address(parse("127.0.0.1"), "here") is None
    assert exact.refuse_address(parse("127.0.0.2"), "here") is not None


def test_a_bare_address_is_refused_where_names_are_given() -> None:
    assert Policy("egress").refuse_unnamed() is None
    assert Policy.read("egress", ["a.test"], ["8.8.8.8"]).refuse_unnamed() is not None
    assert Policy.read("egress", []).refuse_unnamed() is not None


@pytest.mark.parametrize(
    ("mode", "hosts", "addresses", "words"),
    [
        ("egress", ["a b"], None, "cannot use allow_hosts 'a b'"),
        ("egress", [""], None, "it is empty"),
        ("egress", None, ["10.0.0.1/8"], "write 10.0.0.0/8"),
        ("egress", None, ["nowhere"], "cannot use allow_addresses 'nowhere'"),
        ("egress", ["a.test"] * 257, None, "more than 256 times"),
        ("off", ["a.test"], None, "only where there is a network"),
        ("off", [], None, "only where there is a network"),
        ("off", None, ["10.0.0.1"], "only where there is a network"),
    ],
)
def test_unusable_policies(mode: str, hosts: list[str] | None, addresses: list[str] | None, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        Policy.read(mode, hosts, addresses)


@pytest.mark.parametrize(
    "policy",
    [
        Policy(),
        Policy.read("egress"),
        Policy.read("egress", []),
        Policy.read("egress", ["*.a.test"], ["10.0.0.0/8", "::2"]),
    ],
)
def test_kept_and_read_again(policy: Policy) -> None:
    assert Policy.from_json(policy.to_json()) == policy


@pytest.mark.parametrize(
    "kept",
    [
        {},
        {"mode": "all"},
        {"mode": "egress", "allow_hosts": ["a b"]},
        {"mode": "egress", "allow_addresses": ["x"]},
        {"mode": "egress", "allow_hosts": 5},
        {"mode": "egress", "allow_hosts": [5]},
        {"mode": ["egress"]},
    ],
)
def test_what_cannot_be_read_again_is_closed(kept: dict[str, object]) -> None:
    policy = Policy.from_json(kept)
    assert policy.refuse_name("a.test") is not None
    assert policy.refuse_address(parse("8.8.8.8"), "away") is not None or policy.refuse_unnamed() is not None


def test_answers_are_recent_and_bounded() -> None:
    answers = Answers()
    answers.learn("a.test", [parse("8.8.8.8")], 100.0)
    assert answers.name_of(parse("8.8.8.8"), 100.0 + KEPT_SECONDS - 1) == "a.test"
    assert answers.name_of(parse("8.8.8.8"), 100.0 + KEPT_SECONDS) is None
    assert answers.name_of(parse("8.8.4.4"), 100.0) is None
    answers.learn("b.test", [parse(f"2600::{number:x}") for number in range(KEPT_MAX)], 101.0)
    assert answers.name_of(parse("8.8.8.8"), 101.0) is None
