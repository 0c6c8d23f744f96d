"""Shells in the agent: a terminal with job control, a ring that outlives channels, and every way to be wrong."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyro_mcp.guest.terminals import pty as pty_module
from pyro_mcp.guest.terminals.ring import RING_BYTES, OutputRing
from pyro_mcp.protocol.channel import Data, RemoteError, Stream, StreamResult

from .conftest import Client, alive, until

FLOOD = 3 * RING_BYTES


class Shells:
    """The node's side of the shells of one agent."""

    def __init__(self, agent: Client) -> None:
        self.agent = agent
        self.cursors: dict[str, int] = {}

    def open(self, shell_id: str = "s", **params: Any) -> dict[str, Any]:
        opened = self.call("shell_open", shell_id=shell_id, **{"cols": 80, "rows": 24, **params})
        self.cursors[shell_id] = 0
        return opened

    def call(self, verb: str, **params: Any) -> dict[str, Any]:
        return self.agent.channel.call(verb, params, 30)

    def read(self, shell_id: str = "s", **params: Any) -> tuple[dict[str, Any], bytes]:
        given = {"shell_id": shell_id, "cursor": 0, "max_bytes": RING_BYTES, "back": 0, **params}
        return collected(self.agent.channel.open("shell_read", given))

    def write(self, text: str | bytes, shell_id: str = "s") -> dict[str, Any]:
        stream = self.agent.channel.open("shell_write", {"shell_id": shell_id})
        stream.send(text.encode() if isinstance(text, str) else text)
        stream.end()
        return collected(stream)[0]

    def expect(self, pattern: str, shell_id: str = "s", seconds: float = 20.0) -> str:
        """Read on until `pattern` has come; what came up to it."""
        seen, deadline = b"", time.monotonic() + seconds
        while True:
            found = re.search(pattern.encode(), seen)
            if found:
                self.cursors[shell_id] += found.end()
                return seen[: found.end()].decode()
            assert time.monotonic() < deadline, seen[-2000:]
            _, more = self.read(shell_id, cursor=self.cursors[shell_id] + len(seen), wait_ms=1000)
            seen += more


def collected(stream: Stream) -> tuple[dict[str, Any], bytes]:
    pieces: list[bytes] = []
    for message in stream.messages():
        if isinstance(message, Data):
            pieces.append(message.data)
        elif isinstance(message, StreamResult):
            return message.value, b"".join(pieces)
    raise AssertionError("no result")


@pytest.fixture
def shells(agent: Client) -> Shells:
    return Shells(agent)


@pytest.fixture
def plain(shells: Shells) -> Shells:
    """With one shell that says nothing by itself: no prompt, no echo."""
    shells.open(argv=["sh", "-c", "stty -echo -onlcr; echo up; exec cat"])
    shells.expect("up\n")
    return shells


def test_it_is_a_terminal_with_job_control(shells: Shells, agent: Client) -> None:
    opened = shells.open()
    assert (opened["state"], opened["exit_code"], opened["cols"], opened["rows"]) == ("running", None, 80, 24)
    shells.write("tty; stty size; echo $TERM $LANG; tput colors; ps -o tpgid= -p $$\r")
    shells.expect(r"/dev/pts/\d+\r\n24 80\r\nxterm-256color C.UTF-8\r\n")
    shells.write("sleep 300\r")
    until(lambda: b"sleep" in children(agent))
    shells.write(b"\x1a")
    shells.expect("Stopped")
    shells.write("jobs; fg\r")
    shells.expect("Stopped.*sleep 300")
    shells.write(b"\x03")
    shells.write("echo code $?\r")
    shells.expect(r"\rcode 130")


def test_the_prompt_says_where(shells: Shells) -> None:
    shells.open("b")
    shells.expect(r"\w+@[\w.-]+:[^\n]*[#$] ", "b")
    shells.open("d", argv=["sh", "-i"], env={"PS1": "x:${PWD}> "})
    shells.expect(f"x:{re.escape(str(shells.agent.root))}> ", "d")
    shells.open("w", cwd="/workspace")
    assert shells.call("shell_list")["shells"][2]["cwd"] == str(shells.agent.root)


def test_an_open_shell_has_said_its_prompt_and_echoes_once(shells: Shells) -> None:
    for number in range(5):
        name = f"s{number}"
        opened = shells.open(name)
        assert opened["end"] > 0
        shells.write("echo on''ce\r", name)
        shells.expect(r"[\r\n]once\r\n", name)
        said = shells.read(name)[1]
        assert said.count(b"echo on''ce") == 1, said


def test_a_shell_that_says_nothing_opens_all_the_same(shells: Shells) -> None:
    (shells.agent.root / ".bashrc").write_text("exec cat\n")
    opened = shells.open(env={"HOME": str(shells.agent.root)})
    assert (opened["state"], opened["end"]) == ("running", 0)
    shells.write("x\n")
    shells.expect("x\r\nx\r\n")


def test_a_shell_that_ends_at_once_opens(shells: Shells) -> None:
    (shells.agent.root / ".bashrc").write_text("echo bye; exit 3\n")
    opened = shells.open(env={"HOME": str(shells.agent.root)})
    assert (opened["state"], opened["exit_code"]) == ("exited", 3)


def test_a_shell_whose_opener_leaves_ends(shells: Shells) -> None:
    (shells.agent.root / ".bashrc").write_text("exec sleep 300\n")
    given = {"shell_id": "s", "cols": 80, "rows": 24, "env": {"HOME": str(shells.agent.root)}}
    stream = shells.agent.channel.open("shell_open", given)
    until(lambda: b"sleep" in children(shells.agent))
    stream.cancel()
    with pytest.raises(RemoteError, match="cancelled"):
        collected(stream)
    assert shells.call("shell_list")["shells"] == []
    assert b"sleep" not in children(shells.agent)


def test_utf8_is_erased_by_character(plain: Shells) -> None:
    plain.write("aé€\x7fb\n")
    plain.expect("aéb\n")


def test_windows_change_size_and_programs_are_told(shells: Shells) -> None:
    shells.open(argv=["bash", "-c", "trap 'stty size' WINCH; echo up; while :; do sleep 0.05; done"])
    shells.expect("up")
    sized = shells.call("shell_resize", shell_id="s", cols=1000, rows=1)
    assert (sized["cols"], sized["rows"]) == (1000, 1)
    shells.expect("1 1000")


@pytest.mark.parametrize("size", [{"cols": 100_000}, {"rows": 0}, {"cols": 1001}, {"rows": "9"}, {"cols": True}])
def test_sizes_have_a_range(shells: Shells, size: dict[str, Any]) -> None:
    with pytest.raises(RemoteError, match="from 1 to 1000"):
        shells.open(**size)
    shells.open(argv=["cat"])
    with pytest.raises(RemoteError, match="from 1 to 1000"):
        shells.call("shell_resize", shell_id="s", **{"cols": 1, "rows": 1, **size})


def test_signals_reach_the_foreground(shells: Shells, agent: Client) -> None:
    shells.open()
    shells.write("sleep 300; echo after $?\r")
    until(lambda: b"sleep" in children(agent))
    shells.call("shell_signal", shell_id="s", signal="term")
    shells.expect(r"\nafter 143")
    shells.write("trap 'echo got' USR1; echo set\r")
    shells.expect(r"\rset")
    shells.call("shell_signal", shell_id="s", signal="SIGUSR1")
    shells.write("\r")
    shells.expect(r"\rgot")
    with pytest.raises(RemoteError, match="'NOPE' is not a signal"):
        shells.call("shell_signal", shell_id="s", signal="NOPE")


def test_the_exit_code_and_the_last_words_are_kept(shells: Shells) -> None:
    for number, (script, code) in enumerate({"echo bye; exit 7": 7, "echo bye; kill -9 $$": 137}.items()):
        shells.open(f"s{number}", argv=["sh", "-c", script])
        fields, said = shells.read(f"s{number}", wait_ms=20_000, idle_ms=20_000)
        assert (fields["state"], fields["exit_code"], said) == ("exited", code, b"bye\r\n")
        with pytest.raises(RemoteError, match=f"has exited with code {code}") as caught:
            shells.write("x\n", f"s{number}")
        assert caught.value.payload["code"] == "conflict"
        for verb, params in (("signal", {"signal": "INT"}), ("resize", {"cols": 1, "rows": 1})):
            with pytest.raises(RemoteError, match="has exited"):
                shells.call(f"shell_{verb}", shell_id=f"s{number}", **params)


def test_close_ends_the_whole_session_and_may_be_repeated(shells: Shells, agent: Client) -> None:
    shells.open()
    shells.write("(trap '' HUP; exec sleep 301) & nohup sleep 302 >/dev/null 2>&1 & trap '' HUP; sleep 303\r")
    until(lambda: children(agent).count(b"sleep") == 3)
    closed = shells.call("shell_close", shell_id="s")
    assert (closed["state"], closed["already"], closed["exit_code"]) == ("closed", False, 137)
    assert children(agent) == []
    again = shells.call("shell_close", shell_id="s")
    assert (again["state"], again["already"]) == ("closed", True)
    with pytest.raises(RemoteError, match="it was closed"):
        shells.write("x")
    assert b"sleep 303" in shells.read()[1]


def test_a_hangup_gives_programs_time_to_leave(shells: Shells, tmp_path: Path) -> None:
    shells.open(argv=["bash", "-c", "trap 'echo saved > saved; exit 3' HUP; echo up; while :; do sleep 0.02; done"])
    shells.expect("up")
    assert shells.call("shell_close", shell_id="s")["exit_code"] == 3
    assert (tmp_path / "saved").read_text() == "saved\n"


def test_many_shells_are_refused_and_closed_ones_forgotten(shells: Shells, open_fds: Callable[[], int]) -> None:
    shells.open("warm", argv=["cat"])
    shells.call("shell_close", shell_id="warm")
    before = open_fds()
    for number in range(32):
        shells.open(f"s{number}", argv=["cat"])
    with pytest.raises(RemoteError, match="32 are open") as caught:
        shells.open("more", argv=["cat"])
    assert caught.value.payload["code"] == "capacity"
    with pytest.raises(RemoteError, match="there is one of that id"):
        shells.open("s0", argv=["cat"])
    for number in range(32):
        shells.call("shell_close", shell_id=f"s{number}")
    assert len(shells.call("shell_list")["shells"]) == 32
    with pytest.raises(RemoteError, match="none of that id"):
        shells.read("warm")
    until(lambda: open_fds() == before)


def test_unknown_and_bad_parameters_are_refused(shells: Shells) -> None:
    for verb in ("read", "write", "attach", "signal", "resize", "close"):
        with pytest.raises(RemoteError, match="there is none of that id") as caught:
            collected(shells.agent.channel.open(f"shell_{verb}", {"shell_id": "nobody", "signal": "INT"}))
        assert caught.value.payload["code"] == "not_found"
        with pytest.raises(RemoteError, match="shell_id must match"):
            collected(shells.agent.channel.open(f"shell_{verb}", {"shell_id": "../x"}))
    with pytest.raises(RemoteError, match="working directory /no/such"):
        shells.open(cwd="/no/such")
    with pytest.raises(RemoteError, match="no-such-program"):
        shells.open(argv=["no-such-program"])
    with pytest.raises(RemoteError, match="no secret K"):
        shells.open(secret_env={"K": "K"})
    assert shells.call("shell_list")["shells"] == []
    shells.open(argv=["cat"])
    with pytest.raises(RemoteError, match="ends at 0"):
        shells.read(cursor=5)


# -- reading


def test_cursors_count_bytes_from_the_beginning(plain: Shells) -> None:
    plain.write("0123456789\n")
    plain.expect("9\n")
    fields, said = plain.read(cursor=3)
    assert (said, fields["start"], fields["end"]) == (b"0123456789\n", 3, 14)
    assert plain.read(cursor=5, max_bytes=2)[1] == b"23"
    assert plain.read(cursor=5, max_bytes=2, back=1)[1] == b"123"
    assert plain.read(cursor=-2)[1] == b"9\n"
    assert plain.read(cursor=14)[1] == b""


def test_a_reader_waits_for_output_and_not_in_vain(plain: Shells) -> None:
    threading.Timer(0.3, plain.write, ["later\n"]).start()
    begun = time.monotonic()
    assert plain.read(cursor=3, wait_ms=60_000)[1] == b"later\n"
    assert 0.25 < time.monotonic() - begun < 50
    begun = time.monotonic()
    assert plain.read(cursor=9, wait_ms=200)[1] == b""
    assert time.monotonic() - begun >= 0.2


def test_idle_is_quiet_for_so_long(shells: Shells) -> None:
    shells.open(argv=["sh", "-c", "for i in 1 2 3 4; do echo $i; sleep 0.05; done; sleep 300"])
    begun = time.monotonic()
    _, said = shells.read(wait_ms=60_000, idle_ms=1_000)
    assert said == b"1\r\n2\r\n3\r\n4\r\n"
    assert 1.0 < time.monotonic() - begun < 50
    begun = time.monotonic()
    shells.read(wait_ms=300, idle_ms=20_000)
    assert time.monotonic() - begun >= 0.3


def test_a_cancelled_reader_leaves_at_once(plain: Shells) -> None:
    stream = plain.agent.channel.open(
        "shell_read", {"shell_id": "s", "cursor": 3, "max_bytes": 9, "back": 0, "wait_ms": 60_000}
    )
    time.sleep(0.1)
    begun = time.monotonic()
    stream.cancel()
    with pytest.raises(RemoteError):
        collected(stream)
    assert time.monotonic() - begun < 50


def test_a_late_reader_is_told_what_it_missed(shells: Shells) -> None:
    shells.open(argv=["sh", "-c", f"stty -onlcr; head -c {FLOOD} /dev/zero | tr '\\0' x; echo end; sleep 300"])
    until(lambda: shells.call("shell_list")["shells"][0]["end"] == FLOOD + 4, 60)
    fields, said = shells.read(max_bytes=4 * RING_BYTES)
    assert said.endswith(b"xend\n")
    assert fields["start"] == fields["oldest"] == FLOOD + 4 - len(said)
    assert RING_BYTES <= len(said) <= RING_BYTES + 70_000
    assert shells.read(max_bytes=10)[1] == said[:10]


def test_a_flood_costs_no_memory_and_stops_no_other_verb(shells: Shells, agent: Client) -> None:
    shells.open(argv=["yes"])
    until(lambda: shells.call("shell_list")["shells"][0]["end"] > 5 * RING_BYTES, 60)
    before = resident(agent)
    seen = shells.call("shell_list")["shells"][0]["end"]
    for _ in range(20):
        assert agent.exec("true").exit_code == 0
    until(lambda: shells.call("shell_list")["shells"][0]["end"] > seen + 20 * RING_BYTES, 60)
    assert resident(agent) - before < 8 * 1024
    shells.call("shell_close", shell_id="s")


def test_an_idle_shell_costs_nothing(plain: Shells, agent: Client) -> None:
    def spent() -> int:
        fields = Path(f"/proc/{agent.process.pid}/stat").read_text().rpartition(") ")[2].split()
        return int(fields[11]) + int(fields[12])

    def quiet() -> bool:
        before, switches = spent(), context_switches(agent)
        time.sleep(1)
        return spent() - before <= 1 and context_switches(agent) - switches < 5

    # It may have to settle first.
    until(quiet)


def test_a_terminal_that_everybody_has_left_does_not_spin(shells: Shells, agent: Client) -> None:
    shells.open(argv=["sh", "-c", "echo up; exec sleep 300 <&- >&- 2>&-"])
    shells.expect("up")
    until(lambda: b"sleep" in children(agent))

    def quiet() -> bool:
        switches = context_switches(agent)
        time.sleep(0.5)
        return context_switches(agent) - switches < 50

    until(quiet)


# -- attaching


class Attached:
    def __init__(self, shells: Shells, cursor: int = 0, shell_id: str = "s") -> None:
        self.stream = shells.agent.channel.open("shell_attach", {"shell_id": shell_id, "cursor": cursor})
        self.seen = b""

    def expect(self, pattern: bytes, seconds: float = 20.0) -> None:
        deadline = time.monotonic() + seconds
        while not re.search(pattern, self.seen):
            message = self.stream.receive(max(0.01, deadline - time.monotonic()))
            assert isinstance(message, Data)
            self.seen += message.data


def test_an_attached_person_types_and_sees(plain: Shells) -> None:
    person = Attached(plain)
    person.stream.send(b"one\n")
    person.expect(b"up\none\n")
    person.stream.end()
    answer, _ = collected(person.stream)
    assert (answer["detached"], answer["missed"], answer["state"]) == (True, 0, "running")


def test_an_attached_person_loses_nothing_of_a_flood(shells: Shells) -> None:
    shells.open(argv=["sh", "-c", f"stty -onlcr; read go; head -c {FLOOD} /dev/zero | tr '\\0' x; exit 5"])
    person = Attached(shells)
    person.stream.send(b"go\n")
    time.sleep(0.5)
    held = shells.call("shell_list")["shells"][0]["end"]
    assert held < 700_000, "the program waits for the person"
    answer, said = collected(person.stream)
    assert (answer["detached"], answer["missed"], answer["exit_code"]) == (False, 0, 5)
    assert said.count(b"x") == FLOOD


def test_somebody_who_takes_nothing_holds_the_program_for_a_while_only() -> None:
    follower = pty_module.Follower(0, lambda: None)
    now = follower.moved_at
    assert follower.lags(pty_module.LAG_BYTES, now + 1)
    assert not follower.lags(pty_module.LAG_BYTES - 1, now + 1)
    assert not follower.lags(pty_module.LAG_BYTES, now + pty_module.HOLD_SECONDS)


def test_a_person_who_vanishes_leaves_the_shell(plain: Shells) -> None:
    person = Attached(plain)
    person.expect(b"up")
    person.stream.cancel()
    with pytest.raises(RemoteError):
        collected(person.stream)
    plain.write("still\n")
    plain.expect("still")


def test_keys_that_nobody_reads_yet_wait_and_do_not_block_output(shells: Shells) -> None:
    shells.open(argv=["sh", "-c", "stty raw -echo; echo up; sleep 1; echo mid; exec wc -c"])
    person = Attached(shells)
    person.expect(b"up")
    person.stream.send(b"k" * 50_000)
    person.expect(b"mid")
    person.stream.cancel()


def test_input_that_nobody_reads_is_refused_in_the_end(shells: Shells) -> None:
    shells.open(argv=["sh", "-c", "stty raw -echo; echo up; exec sleep 300"])
    shells.expect("up")
    with pytest.raises(RemoteError, match=r"reads no input; bytes taken: \d+"):
        shells.write(b"k" * 100_000)


def test_who_does_not_want_to_type_any_more_waits_for_nobody(shells: Shells) -> None:
    shells.open(argv=["sh", "-c", "stty raw -echo; echo up; exec sleep 300"])
    shells.expect("up")
    first, second = (shells.agent.channel.open("shell_write", {"shell_id": "s"}) for _ in range(2))
    for stream in (first, second):
        stream.send(b"k" * 100_000)
        stream.end()
    second.cancel()
    with pytest.raises(RemoteError, match="it was cancelled"):
        second.receive(30)
    assert first.try_receive() is None
    first.cancel()
    with pytest.raises(RemoteError, match="it was cancelled"):
        first.receive(30)
    shells.call("shell_close", shell_id="s")


def test_who_catches_up_while_it_is_looked_at_holds_nothing_up(tmp_path: Path) -> None:
    class Catching(pty_module.Follower):
        looks = 0

        def lags(self, end: int, now: float) -> bool:
            self.looks += 1
            return self.looks == 1

    script = b"stty -opost; head -c 12000 /dev/zero; touch said; exec sleep 300"
    pty = pty_module.open_pty([b"sh", b"-c", script], [b"/bin/sh"], bytes(tmp_path), [b"PATH=/usr/bin:/bin"], 80, 24)
    try:
        until((tmp_path / "said").exists)
        pty.followers.append(Catching(0, lambda: None))
        pump = pty_module.Pump()
        pump.add(pty)
        pty.wait(0, 12_000, 20, 20, lambda: False)
        assert pty.ring.end == 12_000
        pump.forget(pty)
    finally:
        pty.hang_up()


# -- the ring


def test_the_ring_keeps_the_end_of_everything() -> None:
    ring, whole = OutputRing(1000), b""
    for number in range(3000):
        piece = bytes([number % 251]) * (number % 7 * 50)
        whole += piece
        ring.add(piece)
        assert ring.end == len(whole)
        assert ring.end - ring.start >= min(1000, len(whole))
        assert ring.end - ring.start <= 1000 + 64 * 1024 + 300
    for begin in (ring.start, ring.start + 1, ring.end - 70_000, ring.end - 1, ring.end):
        for limit in (0, 1, 999, 10**6):
            at = max(begin, ring.start)
            assert ring.read(begin, limit) == whole[at : at + limit]
    ring.shrink(10)
    assert (ring.read(0, 100), ring.start) == (whole[-10:], ring.end - 10)


def test_tiny_pieces_cost_what_they_hold() -> None:
    ring = OutputRing()
    for _ in range(RING_BYTES + 200_000):
        ring.add(b"x")
    assert len(ring._blocks) < 20


def children(agent: Client) -> list[bytes]:
    """The names of the processes below the agent."""
    names = []
    for pid in os.listdir("/proc"):
        if pid.isdigit():
            try:
                text = Path(f"/proc/{pid}/environ").read_bytes()
                if f"PWD={agent.root}".encode() in text and alive(int(pid)) and int(pid) != agent.process.pid:
                    names.append(Path(f"/proc/{pid}/comm").read_bytes().strip())
            except OSError:
                continue
    return names


def resident(agent: Client) -> int:
    """KiB of memory."""
    return int(re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{agent.process.pid}/status").read_text())[0])


def context_switches(agent: Client) -> int:
    total = 0
    for task in Path(f"/proc/{agent.process.pid}/task").iterdir():
        total += sum(map(int, re.findall(r"ctxt_switches:\s+(\d+)", (task / "status").read_text())))
    return total
