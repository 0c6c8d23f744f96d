"""The host's apt configuration, read and made public."""

from __future__ import annotations

import pytest

from pyro_mcp.environments import archive
from pyro_mcp.system.process import CommandFailed, Finished


def answer(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(archive, "find_program", lambda name: name)
    monkeypatch.setattr(archive, "run", lambda argv, **_: Finished(text, ""))


def test_only_debians_own_suites_count(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(
        monkeypatch,
        "http://mirror.test/debian/ bookworm main\n"
        "http://mirror.test/debian/ bookworm main\n"
        "http://mirror.test/debian/ bookworm-security main\n"
        "http://mirror.test/debian/ bookworm contrib\n"
        "https://docker.test/debian/ bookworm stable\n"
        "https://other.test/ nodistro main\n"
        "cdrom:[x]/ bookworm main\n",
    )
    assert archive.host_sources("bookworm") == [
        "deb http://mirror.test/debian/ bookworm main",
        "deb http://mirror.test/debian/ bookworm-security main",
    ]
    assert archive.host_sources("trixie") == []


def test_updates_alone_are_no_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, "http://mirror.test/debian/ bookworm-updates main\n")
    assert archive.host_sources("bookworm") == []


def test_an_apt_that_fails_is_no_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(argv: object, **_: object) -> Finished:
        raise CommandFailed("cannot finish apt-get: exit 100", status=100, output="")

    monkeypatch.setattr(archive, "find_program", lambda name: name)
    monkeypatch.setattr(archive, "run", fail)
    assert archive.host_sources("bookworm") == []
    assert archive.host_proxies() == []


def test_proxies_are_passed_on_only_when_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, 'Acquire::http::Proxy http://proxy.test:3128\nAcquire::https::Proxy a"; evil "b\nOther x\n')
    assert archive.host_proxies() == ['Acquire::http::Proxy "http://proxy.test:3128"']


@pytest.mark.parametrize(
    ("line", "public"),
    [
        ("deb http://user:pass@mirror.test/debian bookworm main", "deb http://mirror.test/debian bookworm main"),
        ("deb [a=b] https://t@m.test:8/d x main", "deb [a=b] https://m.test:8/d x main"),
        ("deb http://mirror.test/debian bookworm main", "deb http://mirror.test/debian bookworm main"),
    ],
)
def test_a_password_stays_on_the_host(line: str, public: str) -> None:
    assert archive.public_source(line) == public
