"""pyro.toml: what it may say, checked by the verbs' own rules, and what of it needs a person's consent."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyro_mcp.api.workspace import declared
from pyro_mcp.engine.projects.file import MAX_BYTES, NAME, ProjectFile, read_file, require_file
from pyro_mcp.engine.projects.trust import Trust
from pyro_mcp.errors import InvalidArgument, NotFound, PyroError

FULL = """
environment = "debian:12"
vcpu_count = 1
mem_mib = 2048
scratch_mib = 512
ttl_seconds = 3600
network_policy = "egress+published-ports"
allow_hosts = ["example.com"]
setup = ["make deps", "make"]

[services.web]
command = "python3 -m http.server 8000"
cwd = "site"
readiness = { http = "http://127.0.0.1:8000/" }
published_ports = ["8080:8000"]

[services.worker]
command = ["./worker", "--once"]
"""


def read(root: Path, text: str) -> ProjectFile:
    (root / NAME).write_text(text)
    return require_file(root, declared())


def test_everything_it_may_say(tmp_path: Path) -> None:
    found = read(tmp_path, FULL)
    assert found.settings["environment"] == "debian:12"
    assert found.setup == ["make deps", "make"]
    assert found.services["worker"] == {"command": ["./worker", "--once"]}
    assert list(found.widens.values()) == [
        "mem_mib = 2048 (default 1024)",
        "network_policy = egress+published-ports, only [example.com]",
        "services.web.published_ports = [8080:8000]: reached on 127.0.0.1 of this host",
    ]


def test_what_asks_for_nothing_more_needs_no_consent(tmp_path: Path) -> None:
    text = 'environment = "debian:12-base"\nmem_mib = 256\nnetwork_policy = "off"\nhost_ca = false\nsetup = ["true"]\n'
    assert read(tmp_path, text).widens == {}
    assert read(tmp_path, "").settings == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("memory = 1", "unknown key memory"),
        ("[services.web]\ncommand='x'\nport = 1", r"unknown key services\.web\.port"),
        ("mem_mib = 1", "mem_mib: expected 128 to"),
        ("mem_mib = 'much'", "mem_mib: expected a whole number"),
        ("network_policy = 'all'", "expected one of off, egress"),
        ("environment = '../x'", "environment: expected a name such as"),
        ("setup = 'make'", "setup: expected a list"),
        ("setup = ['']", "setup: command"),
        ('setup = ["a\\u0000b"]', "NUL"),
        ("services = 1", "services: expected"),
        ("[services.'a b']\ncommand = 'x'", r"services\.a b\.service_name: expected a letter"),
        ("[services.web]\ncwd = 'x'", r"services\.web\.command is missing"),
        ("[services.web]\ncommand = 'x'\nready_interval_ms = 1", r"services\.web\.ready_interval_ms: expected 10 to"),
        ("[services.web]\ncommand = 'x'\nreadiness = { tpc = 'x' }", r"services\.web\.readiness: it has no key 'tpc'"),
        ("[services.web]\ncommand = 'x'\npublished_ports = ['x:y']", r"services\.web: "),
        ("secrets = { A = 'b' }", "unknown key secrets"),
        ("seed_path = '/etc'", "unknown key seed_path"),
        ("allow_host_compat = true", "unknown key allow_host_compat"),
        ("mem_mib = ", "Invalid value"),
        ('x = "\x1b[31m"', "Illegal character"),
    ],
)
def test_what_it_may_not_say_is_named(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=words) as caught:
        read(tmp_path, text)
    assert str(tmp_path / NAME) in caught.value.message
    assert caught.value.hint


def test_a_value_of_another_type_is_weighed_as_what_it_means(tmp_path: Path) -> None:
    found = read(tmp_path, "mem_mib = '4096'\nhost_ca = 'true'\n[services.web]\ncommand = 'x'\npublished_ports = '80'")
    assert (found.settings["mem_mib"], found.settings["host_ca"]) == (4096, True)
    assert set(found.widens) == {"mem_mib", "host_ca", "services.web"}


def test_it_is_a_plain_file_of_a_fit_size(tmp_path: Path) -> None:
    assert read_file(tmp_path, declared()) is None
    with pytest.raises(NotFound, match="cannot find"):
        require_file(tmp_path, declared())
    with pytest.raises(InvalidArgument, match="more than 65,536 bytes"):
        read(tmp_path, "#" * (MAX_BYTES + 1))
    (tmp_path / NAME).write_bytes(b"\xff")
    with pytest.raises(InvalidArgument, match="utf-8"):
        read_file(tmp_path, declared())
    (tmp_path / NAME).unlink()
    (tmp_path / NAME).symlink_to("/etc/passwd")
    with pytest.raises(PyroError, match="cannot read"):
        read_file(tmp_path, declared())
    (tmp_path / NAME).unlink()
    (tmp_path / NAME).mkdir()
    with pytest.raises(InvalidArgument, match="no plain file"):
        read_file(tmp_path, declared())


def test_trust_is_for_one_project_and_exactly_these_bytes(tmp_path: Path) -> None:
    trust = Trust(tmp_path / "trusted.json")
    assert not trust.trusted("/p", "a" * 64)
    trust.add("/p", "a" * 64)
    assert trust.trusted("/p", "a" * 64)
    assert not trust.trusted("/p", "b" * 64)
    assert not trust.trusted("/q", "a" * 64)
    trust.add("/p", "b" * 64)
    again = Trust(tmp_path / "trusted.json")
    assert (again.trusted("/p", "a" * 64), again.trusted("/p", "b" * 64)) == (False, True)
    assert (tmp_path / "trusted.json").stat().st_mode & 0o777 == 0o600
    for broken in ("{", "[]", "\ud800"):
        (tmp_path / "trusted.json").write_text(broken, errors="surrogatepass")
        with pytest.raises(PyroError, match="cannot read"):
            again.trusted("/p", "b" * 64)
