"""`pyro workspace shell attach` at a real terminal, seen through another terminal emulator."""

from __future__ import annotations

import re
import signal
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from terminals import COLS, PROMPT, PYRO, ROWS, Terminal, kill_node, pyro

pytestmark = pytest.mark.guest


@pytest.fixture(scope="module")
def workspace(environ: dict[str, str]) -> Iterator[str]:
    made = pyro(environ, "workspace", "create", "debian:12-build", "--name", "attached")
    yield made["workspace_id"]
    pyro(environ, "workspace", "delete", made["workspace_id"])


@pytest.fixture
def attach(environ: dict[str, str], workspace: str) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def make(*words: str) -> Terminal:
        terminal = Terminal(environ, workspace, *words)
        opened.append(terminal)
        return terminal

    yield make
    for terminal in opened:
        terminal.child.close(force=True)


def shells(environ: dict[str, str], workspace: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pyro(environ, "workspace", "shell", "list", workspace)["shells"]
    return [one for one in found if one["state"] == "running"]


def test_a_person_works_leaves_and_comes_back(
    environ: dict[str, str], workspace: str, attach: Callable[..., Terminal]
) -> None:
    first = attach()
    first.see(PROMPT.rstrip())
    first.type("stty size; tty; A=kept\r")
    first.see(rf"{ROWS} {COLS}\n/dev/pts/\d")
    first.type("sleep 300\r")
    time.sleep(1)
    first.type("\x03")
    first.type("echo c''ode $?\r")
    first.see("code 130")
    first.child.setwinsize(30, 100)
    first.type("until [ \"$(stty size)\" = '30 100' ]; do sleep 0.2; done; echo wi''der\r")
    first.see("wider")
    first.type("\x1d")
    first.leave(0)
    assert b"detached; the shell goes on" in first.raw
    (one,) = shells(environ, workspace)
    again = attach(one["shell_id"])
    again.see("code 130")
    again.type("echo $A; exit 7\r")
    again.see("kept")
    again.leave(7)


def test_a_shell_that_is_killed_says_so(attach: Callable[..., Terminal]) -> None:
    person = attach()
    person.see(PROMPT.rstrip())
    person.type("kill -9 $$\r")
    person.leave(137)
    assert b"\npyro: the shell has ended with code 137" in person.raw.replace(b"\r", b"")


def test_full_screen_programs_work(attach: Callable[..., Terminal]) -> None:
    person = attach()
    person.see(PROMPT.rstrip())
    person.type("python3 -q\r")
    person.see(">>>")
    person.type("print(6 * 7, '日本')\r")
    person.see("42 日")
    person.type("\x04")
    person.type("seq 500 > n; clear; if command -v less; then less n; else more n; fi\r")
    person.see(r"20\n21\n22")
    person.type(" ")
    person.see(r"40\n41\n42")
    person.type("q")
    person.type("clear; top -d 1\r")
    person.see(r"(?s)PID USER.*COMMAND")
    person.type("q")
    person.type("exit\r")
    person.leave(0)


def test_a_hostile_guest_cannot_act_on_the_terminal(attach: Callable[..., Terminal]) -> None:
    person = attach()
    person.see(PROMPT.rstrip())
    person.type(
        r"printf '\033]52;c;ZXZpbA==\a\033]0;evil\a\033[6n\033[c\033[21t\033P$qm\033\\ok\n'; echo d''one" + "\r"
    )
    person.see(r"\nok\ndone")
    for sequence in (b"\x1b]", b"\x1b[6n", b"\x1b[c", b"\x1b[21t", b"\x1bP"):
        assert sequence not in person.raw.replace(rb"\033", b"")
    person.type("exit\r")
    person.leave(0)


def test_raw_escapes_pass_when_asked_for(attach: Callable[..., Terminal]) -> None:
    person = attach("--raw-escapes", "--detach-key", "ctrl-b")
    person.see(PROMPT.rstrip())
    person.type(r"printf '\033]0;title\a'; echo d''one" + "\r")
    person.see("done")
    assert b"\x1b]0;title\x07" in person.raw
    person.type("\x1d")
    person.type("\x02")
    person.leave(0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_the_terminal_is_put_back_after_a_signal(
    environ: dict[str, str], workspace: str, attach: Callable[..., Terminal], number: int
) -> None:
    person = attach()
    person.see(PROMPT.rstrip())
    person.type("printf '\\033[?1049h\\033[?25l\\033[?1000h'; echo d''one; sleep 300\r")
    person.see("done")
    assert termios.tcgetattr(person.child.child_fd) != person.modes
    # Another holder keeps the terminal's settings to look at.
    person.child.kill(number)
    deadline = time.monotonic() + 30
    while termios.tcgetattr(person.child.child_fd) != person.modes:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    person.leave(128 + number if number != signal.SIGINT else 130)
    for sequence in (b"\x1b[?1049l", b"\x1b[?25h", b"\x1b[?1000l"):
        assert person.raw.rindex(sequence) > person.raw.rindex(b"done")
    assert shells(environ, workspace)
    for one in shells(environ, workspace):
        pyro(environ, "workspace", "shell", "close", workspace, one["shell_id"])


def test_a_killed_client_leaves_the_shell(
    environ: dict[str, str], workspace: str, attach: Callable[..., Terminal]
) -> None:
    person = attach()
    person.see(PROMPT.rstrip())
    person.type("B=there; echo no''ted\r")
    person.see("noted\n")
    person.child.kill(signal.SIGKILL)
    (one,) = shells(environ, workspace)
    again = attach(one["shell_id"])
    again.see(PROMPT.rstrip())
    again.type("echo $B; exit\r")
    again.see("there\n")
    again.leave(0)


def test_a_person_stays_when_the_node_is_killed(attach: Callable[..., Terminal], environ: dict[str, str]) -> None:
    person = attach()
    person.see(PROMPT.rstrip())
    person.type("C=there; for i in $(seq 40); do echo line-$i-; sleep 0.1; done\r")
    person.see("line-5-")
    kill_node(environ)
    person.hear(b"node was lost; attaching again")
    person.see("line-40-")
    for number in range(1, 41):
        assert person.raw.count(f"line-{number}-".encode()) == 1, (number, person.raw)
    person.type("clear; echo still $C\r")
    person.see("still there")
    kill_node(environ)
    person.see("attaching again")
    person.type("clear; stty size; exit 5\r")
    person.see(f"{ROWS} {COLS}")
    person.leave(5)


def test_a_node_that_dies_again_ends_it_with_the_way_back(
    attach: Callable[..., Terminal], environ: dict[str, str], workspace: str
) -> None:
    person = attach()
    person.see(PROMPT.rstrip())
    kill_node(environ)
    person.see(r"attaching again\]\n" + PROMPT.rstrip())
    kill_node(environ)
    one = shells(environ, workspace)[-1]
    person.see("Attach again with")
    person.leave(73)
    assert re.search(rb"\n(\x1b\S*)*pyro: cannot", person.raw)
    assert f"pyro workspace shell attach {workspace} {one['shell_id']}".encode() in person.raw.replace(b"\r\n", b"")
    again = attach(one["shell_id"])
    again.type("exit\r")
    again.leave(0)


def test_a_flood_can_be_interrupted(attach: Callable[..., Terminal]) -> None:
    person = attach()
    person.see(PROMPT.rstrip())
    person.type("yes\r")
    person.see(r"y\ny\ny\n")
    person.type("\x03")
    person.type("clear; echo ca''lm\r")
    person.see("calm")
    person.type("exit\r")
    person.leave(0)


def test_without_a_terminal_it_says_what_to_use(environ: dict[str, str], workspace: str) -> None:
    done = subprocess.run(
        [*PYRO, "workspace", "shell", "attach", workspace], env=environ, capture_output=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 2
    assert b"standard input and output are not a terminal" in done.stderr
    assert f"pyro workspace shell read {workspace} SHELL --plain".encode() in done.stderr
