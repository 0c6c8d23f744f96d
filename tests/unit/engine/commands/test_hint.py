"""What helps with a command that failed for lack of a network or of a program, in the words of the programs."""

from __future__ import annotations

import pytest

from pyro_mcp.engine.commands.hint import hint_of
from pyro_mcp.environments.catalog import CATALOG

OFFLINE = [
    "fatal: unable to access 'https://example.com/x/': Could not resolve host: example.com",
    "curl: (6) Could not resolve host: example.com",
    "E: Failed to fetch http://deb.debian.org/x  Could not resolve 'deb.debian.org'",
    "socket.gaierror: [Errno -3] Temporary failure in name resolution",
    "socket.gaierror: [Errno -2] Name or service not known",
    "ssh: Could not resolve hostname example.com: Name or service not known",
    "IO::Socket::INET: connect: Network is unreachable",
    "OSError: [Errno 101] Network is unreachable",
    "npm error code EAI_AGAIN\ngetaddrinfo EAI_AGAIN example.com",
    "dial tcp: lookup example.com on [::1]:53: read udp: connection refused",
    "error: failed to lookup address information: Temporary failure in name resolution",
    "wget: unable to resolve host address 'example.com'",
]


@pytest.mark.parametrize("said", OFFLINE)
def test_a_command_that_found_no_network_is_told_how_to_get_one(said: str) -> None:
    for streams in ((said, ""), ("", said)):
        assert hint_of(1, *streams, environment="debian:12", way_out="do so") == "this machine has no network; do so"
        assert hint_of(1, *streams, environment="debian:12", way_out=None) is None
        assert hint_of(0, *streams, environment="debian:12", way_out="do so") is None
        assert hint_of(None, *streams, environment="debian:12", way_out="do so") is None


def test_apt_update_succeeds_without_a_network_and_is_told_all_the_same() -> None:
    said = "W: Failed to fetch http://deb.debian.org/x  Temporary failure resolving 'deb.debian.org'"
    assert hint_of(0, "", said, environment="debian:12", way_out="do so") is not None


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("sh: 1: python3: not found", "debian:12 has no python3; debian:12-build has python3"),
        ("/bin/sh: 1: exec: make: not found", "debian:12 has no make; debian:12-build has make"),
        ("bash: line 1: g++: command not found", "debian:12 has no g++; debian:12-build has g++"),
        ("pyro: pip: command not found", "debian:12 has no pip; debian:12-build has pip"),
        ("env: ‘python3’: No such file or directory", "debian:12 has no python3; debian:12-build has python3"),
        ("make: gcc: No such file or directory", "debian:12 has no gcc; debian:12-build has gcc"),
        ("sh: 1: python: not found", "debian:12 has no python; debian:12-build has python3"),
        ("sh: 1: node: not found\nsh: 1: gcc: not found", "debian:12 has no gcc; debian:12-build has gcc"),
        ("sh: 1: node: not found", None),
        ("sh: 1: git: not found", None),
        ("sh: 1: ./python3: not found", None),
        ("404 page not found", None),
        ("", None),
    ],
)
def test_a_program_that_another_environment_has_is_told(said: str, hint: str | None) -> None:
    assert hint_of(127, "", said, environment="debian:12", way_out="do so") == hint
    assert hint_of(0, "", said, environment="debian:12", way_out="do so") is None


def test_every_environment_that_has_it_is_named() -> None:
    said = "sh: 1: git: not found"
    wanted = "debian:12-base has no git; debian:12 and debian:12-build have git"
    assert hint_of(127, "", said, environment="debian:12-base", way_out=None) == wanted
    called = hint_of(127, "", "sh: 1: python: not found", environment="debian:12-build", way_out=None)
    assert called == "debian:12-build has it as python3"


def test_what_a_guest_says_is_never_repeated_and_only_its_end_is_read() -> None:
    for said in ("python3<<x>>: not found", "\x1b[31mgcc: not found", "`gcc`: not found", "a" * 10**7):
        found = hint_of(127, said, said, environment="debian:12", way_out=None)
        assert found in (None, "debian:12 has no gcc; debian:12-build has gcc")
    assert hint_of(1, OFFLINE[0] + "\n" * 70_000, "", environment="debian:12", way_out="do so") is None


def test_what_is_shown_of_an_environment_is_among_its_programs() -> None:
    for recipe in CATALOG.values():
        assert set(recipe.shown) <= set(recipe.programs)
