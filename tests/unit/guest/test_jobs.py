"""Jobs: commands that go on while their peer is away, and are fetched byte for byte by the next."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from itertools import chain, count
from pathlib import Path
from typing import Any

import pytest

from pyro_mcp.engine.secrets.redact import Masks, Redactor
from pyro_mcp.guest.exec import jobs
from pyro_mcp.guest.exec.jobs import AgentJob, Jobs
from pyro_mcp.protocol.channel import ChannelClosed, Data, RemoteError, Stream, StreamResult

from .conftest import START, alive, collect, until
from .test_agent import connect

SECRET = b"horse battery horse"
"""Ends as it begins: where one stands, another may begin in it."""


class Lines:
    """An agent that outlives its peers, and the way to it."""

    def __init__(self, path: Path, process: subprocess.Popen[bytes]) -> None:
        self.path = path
        self.process = process
        self.channel = connect(path)

    def cut(self) -> None:
        """Lose the connection and get another."""
        self.channel.close("cut")
        self.channel = connect(self.path)

    def begin(self, job: str, *argv: str, **params: Any) -> Stream:
        return self.channel.open("exec", {"argv": list(argv), "job": job, **params})

    def resume(self, job: str, out: int = 0, err: int = 0) -> Stream:
        return self.channel.open("exec_resume", {"job": job, "stdout_offset": out, "stderr_offset": err})


@pytest.fixture
def lines(tmp_path: Path) -> Iterator[Lines]:
    path = tmp_path / "agent.sock"
    source = str(Path(__file__).parents[3] / "src")
    command = [sys.executable, "-I", "-S", "-c", START, source, "--listen", str(path), "--root", str(tmp_path)]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE)
    until(path.exists)
    found = Lines(path, process)
    yield found
    found.channel.close()
    process.terminate()
    _, said = process.communicate(timeout=10)
    assert (process.returncode, said) == (0, b"")


class Reader:
    """A peer that masks what it reads, and knows from where it would want it again."""

    def __init__(self, masks: Masks) -> None:
        self.masks = masks
        self.text = {1: b"", 2: b""}
        self.offsets = {1: 0, 2: 0}
        self._covered = {1: 0, 2: 0}

    def hear(self, stream: Stream, pieces: int) -> dict[str, Any] | None:
        """Read so many pieces; the result if it came before."""
        redactors = {tag: Redactor(self.masks, covered=self._covered[tag]) for tag in (1, 2)}
        read = dict(self.offsets)
        for _ in range(pieces):
            message = stream.receive(20)
            if isinstance(message, StreamResult):
                for tag, redactor in redactors.items():
                    self.text[tag] += redactor.finish()
                return message.value
            assert isinstance(message, Data)
            redactor = redactors[message.tag]
            self.text[message.tag] += redactor.feed(message.data)
            read[message.tag] += len(message.data)
            self.offsets[message.tag] = read[message.tag] - redactor.held
            self._covered[message.tag] = redactor.covered
        return None


def noise(dice: random.Random, size: int) -> bytes:
    """Bytes full of the secret, of beginnings of it and of it upon itself."""
    found = bytearray()
    while len(found) < size:
        cut = dice.randrange(1, len(SECRET))
        found += dice.choice([SECRET, SECRET[:cut], SECRET[:cut] + SECRET, dice.randbytes(dice.choice([0, 1, 2, 30]))])
    return bytes(found)


@pytest.mark.parametrize("seed", range(12))
def test_a_connection_cut_anywhere_loses_no_byte_and_repeats_none(lines: Lines, tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    whole = {1: noise(dice, 2_000_000), 2: noise(dice, 700_000)}
    (tmp_path / "out").write_bytes(whole[1])
    (tmp_path / "err").write_bytes(whole[2])
    reader = Reader(Masks.of([SECRET]))
    script = "dd if=out bs=7001 status=none & dd if=err bs=997 status=none >&2; wait; exit 7"
    stream, cuts = lines.begin("j", "sh", "-c", script), 0
    pieces = chain([0, 1, 0, 2], (dice.choice([0, 1, 2, 5, 9]) for _ in count()))
    result = reader.hear(stream, 1)
    while result is None:
        lines.cut()
        stream, cuts = lines.resume("j", reader.offsets[1], reader.offsets[2]), cuts + 1
        result = reader.hear(stream, next(pieces))
    assert result["exit_code"] == 7
    assert cuts > 3
    for tag, data in whole.items():
        assert reader.text[tag] == Masks.of([SECRET]).data(data)


def test_what_ends_while_nobody_is_there_is_kept_until_forgotten(lines: Lines, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "go")
    lines.begin("j", "sh", "-c", "echo out; echo err >&2; touch begun; read x < go; echo end; touch o; exit 5")
    until((tmp_path / "begun").exists)
    lines.cut()
    (tmp_path / "go").write_text("\n")
    until((tmp_path / "o").exists)
    for _ in range(2):
        done = collect(lines.resume("j"))
        assert (done.stdout, done.stderr, done.exit_code) == (b"out\nend\n", b"err\n", 5)
        lines.cut()
    assert collect(lines.resume("j", 4, 4)).stdout == b"end\n"
    assert lines.channel.call("exec_forget", {"job": "j"}, 5) == {}
    assert lines.channel.call("exec_forget", {"job": "j"}, 5) == {}
    refused(lines.resume("j"), "not_found")


FILLER = """
import os, select
left = memoryview(open("data", "rb").read())
os.set_blocking(1, False)
poll = select.poll()
poll.register(1, select.POLLOUT)
open("begun", "w").close()
while left:
    if not poll.poll(500):
        open("full", "w").close()
    try:
        left = left[os.write(1, left[:65536]) :]
    except BlockingIOError:
        pass
open("over", "w").close()
"""
"""Says so when nobody has taken anything for half a second."""


def test_more_than_is_kept_waits_in_the_pipes(lines: Lines, tmp_path: Path) -> None:
    size = 3 * (jobs.AWAY_BYTES + jobs.KEEP_BYTES + 2 * 1024 * 1024)
    data = random.Random(1).randbytes(size)
    (tmp_path / "data").write_bytes(data)
    lines.begin("j", sys.executable, "-c", FILLER)
    until((tmp_path / "begun").exists)
    lines.cut()
    until((tmp_path / "full").exists)
    assert not (tmp_path / "over").exists()
    assert collect(lines.resume("j")).stdout == data
    assert (tmp_path / "over").exists()


def test_a_timeout_is_kept_while_nobody_is_there(lines: Lines, tmp_path: Path) -> None:
    lines.begin("j", "sh", "-c", "echo $$ > pid; exec sleep 1005", timeout_seconds=2)
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    lines.cut()
    until(lambda: not alive(int((tmp_path / "pid").read_text())))
    assert collect(lines.resume("j")).result["timed_out"] is True


@pytest.mark.parametrize("resumed", [False, True])
def test_a_jobs_peer_says_when_its_time_is_up(lines: Lines, tmp_path: Path, resumed: bool) -> None:
    stream = lines.begin("j", "sh", "-c", "trap 'echo last; exit 3' TERM; echo $$ > pid; sleep 1007 & wait")
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    if resumed:
        lines.cut()
        stream = lines.resume("j")
        with pytest.raises(TimeoutError):
            stream.receive(0.1)
    stream.expire()
    ended = collect(stream)
    assert (ended.stdout, ended.exit_code, ended.result["timed_out"]) == (b"last\n", 124, True)


def test_a_resumed_job_can_be_ended_and_is_fetched_by_one_only(lines: Lines, tmp_path: Path) -> None:
    lines.begin("j", "sh", "-c", "echo $$ > pid; exec sleep 1006")
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    refused(lines.resume("j"), "conflict")
    refused(lines.begin("j", "true"), "conflict")
    refused(lines.channel.open("exec_forget", {"job": "j"}), "conflict")
    lines.cut()
    first = lines.resume("j")
    with pytest.raises(TimeoutError):
        first.receive(0.1)
    refused(lines.resume("j"), "conflict")
    first.cancel()
    assert collect(first).result["signal"] == "SIGKILL"
    assert not alive(int((tmp_path / "pid").read_text()))


def test_bad_wishes_are_refused_and_leave_no_job(lines: Lines) -> None:
    for name in ("", "a b", "x" * 65, 7):
        refused(lines.channel.open("exec", {"argv": ["true"], "job": name}), "invalid_argument")
        refused(lines.channel.open("exec_resume", {"job": name}), "invalid_argument")
    refused(lines.begin("j", "cat", stdin=True), "invalid_argument")
    refused(lines.begin("j", "true", cwd="/nowhere"), "invalid_argument")
    refused(lines.resume("j"), "not_found")
    assert collect(lines.begin("j", "no-such-program")).exit_code == 127
    assert b"not found" in collect(lines.resume("j")).stderr
    refused(lines.resume("j", out=1), "invalid_argument")
    refused(lines.channel.open("exec_resume", {"job": "j", "stdout_offset": -1}), "invalid_argument")


def test_of_many_ended_jobs_the_oldest_goes(lines: Lines) -> None:
    for number in range(jobs.FINISHED_MAX + 1):
        collect(lines.begin(f"j{number}", "sh", "-c", f"exit {number}"))
    refused(lines.resume("j0"), "not_found")
    assert collect(lines.resume("j1")).exit_code == 1
    assert collect(lines.resume(f"j{jobs.FINISHED_MAX}")).exit_code == jobs.FINISHED_MAX


def refused(stream: Stream, code: str) -> None:
    with pytest.raises(RemoteError) as caught:
        stream.receive(10)
    assert caught.value.payload["code"] == code, caught.value.payload


class Peer:
    """A stream as a job sees it."""

    def __init__(self) -> None:
        self.lost = False
        self.sent = b""

    @property
    def room(self) -> int:
        if self.lost:
            raise ChannelClosed("gone")
        return 1000

    def send(self, data: bytes, tag: int) -> None:
        if self.lost:
            raise ChannelClosed("gone")
        self.sent += data

    def on_cancel(self, callback: Any) -> None: ...

    def on_expire(self, callback: Any) -> None: ...

    def watch(self, callback: Any) -> None: ...


def test_what_is_kept_is_bounded() -> None:
    peer: Any = Peer()
    job = AgentJob(peer)
    for _ in range(100):
        job.send(bytes(100_000), 1)
    assert jobs.KEEP_BYTES <= job.size <= jobs.KEEP_BYTES + jobs.SLACK_BYTES + 100_000
    assert job.room == 1000
    peer.lost = True
    assert job.room == jobs.AWAY_BYTES
    job.send(bytes(jobs.AWAY_BYTES - 1), 2)
    assert job.room == 1
    job.send(b"x", 1)
    assert job.room == 0
    job.finish({"exit_code": 0})
    later: Any = Peer()
    end = 100 * 100_000
    assert job.resume(later, {1: end, 2: jobs.AWAY_BYTES - 3}) == {"exit_code": 0}
    assert later.sent == b"x\0\0"
    with pytest.raises(Exception, match="which is kept"):
        job.resume(later, {1: 0, 2: 0})


def test_ended_jobs_are_bounded_in_bytes() -> None:
    table = Jobs()
    for number in range(30):
        job = table.begin(f"j{number}", Peer())  # type: ignore[arg-type]
        job.send(bytes(jobs.KEEP_BYTES), 1)
        table.finish(f"j{number}", {"exit_code": 0})
    kept = sum(job.size for job in table._jobs.values())
    assert jobs.FINISHED_BYTES - jobs.KEEP_BYTES < kept <= jobs.FINISHED_BYTES
    assert "j29" in table._jobs
