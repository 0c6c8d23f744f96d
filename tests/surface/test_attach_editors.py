"""vim, less and top at an attached terminal, installed in the guest from the package registry that this host uses.

Without a registry that the guest can reach these tests are skipped.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from terminals import PROMPT, PYRO, Terminal, pyro

pytestmark = [pytest.mark.guest, pytest.mark.slow]

INSTALL = "apt-get update -q && apt-get install -y -q --no-install-recommends vim-tiny less procps"
UNREACHABLE = ("Failed to fetch", "Temporary failure", "Could not", "Unable to locate", "Unable to connect")


@pytest.fixture(scope="module")
def workspace(environ: dict[str, str]) -> Iterator[str]:
    reach = ["--network-policy", "egress", "--allow-address", "203.0.113.0/24", "--host-ca"]
    made = pyro(environ, "workspace", "create", "debian:12-build", *reach)["workspace_id"]
    words = [*PYRO, "workspace", "exec", made, "--timeout-seconds", "600", "--", "sh", "-c", INSTALL]
    done = subprocess.run(words, env=environ, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode:
        said = done.stdout + done.stderr
        assert any(sign in said for sign in UNREACHABLE), said
        pyro(environ, "workspace", "delete", made)
        pytest.skip(f"the package registry is not reachable from a guest: {said.strip()[-300:]}")
    yield made
    pyro(environ, "workspace", "delete", made)


@pytest.fixture
def person(environ: dict[str, str], workspace: str) -> Iterator[Terminal]:
    terminal = Terminal(environ, workspace)
    terminal.see(PROMPT.rstrip())
    yield terminal
    terminal.child.close(force=True)


def test_vim_edits_a_file_and_follows_the_size(environ: dict[str, str], workspace: str, person: Terminal) -> None:
    person.type("seq 60 > numbers; vi numbers\r")
    person.see(r"\A1\n2\n3\n(?:\d+\n){20}.*numbers")
    person.type("ofirst edit, 日本\x1b")
    person.see(r"\A1\nfirst edit, 日本? ?本\n2\n")
    person.resize(34, 100)
    person.see(r"\A1\nfirst edit.*\n2\n(?:\d+\n){30}")
    person.type("G")
    person.see(r"\n60\n[^\n]*\Z")
    person.resize(12, 60)
    person.see(r"\A(?:5\d\n|60\n)+[^\n]*\Z")
    person.type("dd:wq\r")
    person.see(PROMPT.rstrip())
    assert "first edit" not in person.text, "the screen from before vim is back"
    person.type("exit\r")
    person.leave(0)
    text = pyro(environ, "workspace", "file", "read", workspace, "numbers")["content"]
    assert text.splitlines() == ["1", "first edit, 日本", *map(str, range(2, 60))]


def test_less_pages_and_searches(person: Terminal) -> None:
    person.type("seq 500 > n; less n\r")
    person.see(r"\A1\n2\n(?:\d+\n){20}23\nn")
    person.type(" ")
    person.see(r"\A24\n25\n")
    person.type("/^300\r")
    person.see(r"\A300\n301\n")
    person.type("g")
    person.see(r"\A1\n2\n")
    person.type("q")
    person.see(PROMPT.rstrip())
    person.type("exit\r")
    person.leave(0)


def test_top_redraws_itself(person: Terminal) -> None:
    person.type("top -d 1\r")
    person.see(r"(?s)\Atop - .*PID USER.*COMMAND")
    first = person.text.splitlines()[0]
    person.see(r"\Atop - (?!" + first.removeprefix("top - ")[:8] + ")")
    assert len(person.text.splitlines()) <= 24
    person.type("q")
    person.see(PROMPT.rstrip())
    person.type("exit\r")
    person.leave(0)


def test_vim_goes_on_when_the_person_comes_back(environ: dict[str, str], workspace: str, person: Terminal) -> None:
    person.type("seq 60 > back; vi back\r")
    person.see(r"\A1\n2\n3\n")
    person.type("ihalf typed")
    person.see(r"\Ahalf typed1\n")
    person.type("\x1d")
    person.leave(0)
    shell = pyro(environ, "workspace", "shell", "list", workspace)["shells"][-1]["shell_id"]
    again = Terminal(environ, workspace, shell)
    again.see(r"\Ahalf typed1\n2\n3\n(?:\d+\n){20}")
    again.type(", and done\x1b:wq\r")
    again.see(PROMPT.rstrip())
    again.type("exit\r")
    again.leave(0)
    read = pyro(environ, "workspace", "file", "read", workspace, "back")
    assert read["content"].startswith("half typed, and done1\n2\n")
