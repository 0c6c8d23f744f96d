"""Whatever the agent is doing when it dies, the next one shows all of it or nothing (checks 12, 28, 29)."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import pyro_mcp
from pyro_mcp.protocol.channel import Channel, ChannelClosed, RemoteError
from pyro_mcp.protocol.entries import Entry
from pyro_mcp.protocol.pipe import Pipe

from .workspace_client import encoded, sha, snapshot, talk

MOST = 2000
IN_DOUBT = "the disk may lose it"
"""Where the very last flush has failed and nothing else can be written either, the answer says so."""


@dataclass(frozen=True)
class Request:
    """One change, and a tree in which it means something."""

    verb: str
    params: dict[str, Any]
    data: bytes


WRITES = {
    "a": b"A",
    "new/deep/f": b"new",
    "u": b"no link any more",
    "v/x": b"below what was a file",
    "w": b"a file where a directory was",
}
APPLY = Request(
    "tree_apply",
    {
        "operations": [
            {"op": "delete", "path": "t", "expected_sha256": sha(b"text")},
            {"op": "delete", "path": "u", "expected_sha256": sha(b"keep")},
            {"op": "delete", "path": "v"},
            {"op": "delete", "path": "w/1"},
            {"op": "delete", "path": "dir/deep/x"},
            *({"op": "write", "path": path, "size": len(data)} for path, data in WRITES.items()),
            {"op": "mode", "path": "run", "mode": 0o600},
            {"op": "mode", "path": "new/deep/f", "mode": 0o755},
            {"op": "rename", "path": "old", "to": "moved/here", "mode": 0o700},
            {"op": "rename", "path": "p", "to": "between"},
            {"op": "rename", "path": "q", "to": "p"},
            {"op": "rename", "path": "between", "to": "q"},
            {"op": "rename", "path": "soft", "to": "softer"},
            {"op": "link", "path": "t", "target": "../outside/secret"},
            {"op": "link", "path": "link", "target": "dir", "expected_sha256": sha(b"keep")},
            {"op": "link", "path": "fresh/link", "target": "/etc", "expected_sha256": None},
        ]
    },
    b"".join(WRITES.values()),
)
UNPACK = Request(
    "tree_unpack",
    {"dest": "into"},
    encoded(
        (Entry("f", "file", 0o600, size=3), b"new"),
        (Entry("d", "directory", 0o755), b""),
        (Entry("d/g", "file", 0o755, size=1), b"g"),
        (Entry("d/fresh", "directory", 0o700), b""),
        (Entry("d/fresh/h", "file", 0o644, size=1), b"h"),
        (Entry("d/twin", "hardlink", target="d/g"), b""),
        (Entry("l", "symlink", 0o777, target="../outside"), b""),
    ),
)
BELOW = Request("tree_unpack", {"dest": "/workspace/not/yet/there"}, UNPACK.data)
WRITE = Request("file_write", {"path": "a", "size": 1}, b"A")
DEEP = Request("file_write", {"path": "new/deep/f", "size": 1, "mode": 0o600}, b"A")
ONE = Request("tree_apply", {"operations": [{"op": "write", "path": "a", "size": 1}]}, b"A")
REQUESTS = {
    "apply": APPLY,
    "apply one": ONE,
    "unpack": UNPACK,
    "unpack below": BELOW,
    "write": WRITE,
    "write with parents": DEEP,
}


def plant(root: Path) -> None:
    """The tree before."""
    for name in ("dir/deep", "w", "into/d"):
        (root / name).mkdir(parents=True)
    for name in ("a", "run", "old", "p", "q", "v", "w/1", "dir/inner", "dir/deep/x", "into/f", "into/d/g", "keep"):
        (root / name).write_text(f"old {name}")
    (root / "t").write_text("text")
    for name in ("u", "link", "soft", "into/l"):
        (root / name).symlink_to("keep")
    (root / "a").chmod(0o640)
    (root / "run").chmod(0o755)
    (root / "dir/deep").chmod(0o750)


class Lab:
    """Agents that fail, one after the other."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "root"
        self.root.mkdir()
        self.healed = directory / "healed"
        (directory / "outside").mkdir()
        (directory / "outside/secret").write_text("canary")
        ours, theirs = socket.socketpair()
        self._server = ours
        script = str(Path(__file__).with_name("faulty_agent.py"))
        source = str(Path(pyro_mcp.__path__[0]).parent)
        self.process = subprocess.Popen([sys.executable, "-I", "-S", script, source], stdin=theirs)
        theirs.close()

    def close(self) -> None:
        self._server.close()
        assert self.process.wait(10) == 0
        assert (self.root.parent / "outside/secret").read_text() == "canary"

    def fresh(self) -> dict[str, Any]:
        shutil.rmtree(self.root)
        self.root.mkdir()
        plant(self.root)
        self.healed.unlink(missing_ok=True)
        return snapshot(self.root)

    @contextmanager
    def agent(self, mode: str = "none", number: int = 0) -> Iterator[Channel]:
        ours, theirs = socket.socketpair()
        request = {"root": str(self.root), "mode": mode, "number": number}
        socket.send_fds(self._server, [json.dumps(request).encode()], [theirs.fileno()])
        theirs.close()
        channel = Channel(Pipe(ours.detach()), initiator=True, hello={"role": "node"})
        try:
            yield channel
        finally:
            channel.close()
            self.status = json.loads(self._server.recv(4096))["status"]

    def do(self, request: Request, mode: str = "none", number: int = 0) -> str:
        """`done`, `died` or the code of a refusal, whose words are kept."""
        self.said = ""
        with self.agent(mode, number) as channel:
            try:
                channel.start(20)
                talk(channel, request.verb, request.params, request.data)
            except ChannelClosed:
                return "died"
            except RemoteError as error:
                self.said = error.payload["message"]
                return str(error.payload["code"])
        return "done"

    def recover(self) -> None:
        """What an agent does that finds this directory."""
        with self.agent() as channel:
            channel.start(20)
        assert not self.debris()

    def debris(self) -> list[str]:
        return [name for name in os.listdir(self.root) if name.startswith(".pyro")]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(tmp_path)
    yield lab
    lab.close()


@pytest.fixture(params=list(REQUESTS))
def request_(request: pytest.FixtureRequest) -> Request:
    return REQUESTS[request.param]


def outcomes(lab: Lab, request: Request) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tree before and after."""
    before = lab.fresh()
    assert lab.do(request) == "done"
    assert not lab.debris()
    after = snapshot(lab.root)
    assert after != before
    return before, after


def every(run: Callable[[int], bool]) -> int:
    """Call `run` with 1, 2, … until it says that it was not stopped; how often it was."""
    for number in range(1, MOST):
        if not run(number):
            return number - 1
    raise AssertionError("it never completes")


def test_death_at_every_step_leaves_all_or_nothing(lab: Lab, request_: Request) -> None:
    before, after = outcomes(lab, request_)
    seen = {"before": 0, "after": 0}

    def run(number: int) -> bool:
        lab.fresh()
        if lab.do(request_, "kill", number) == "done":
            assert snapshot(lab.root) == after
            return False
        assert lab.status == -9
        lab.recover()
        found = snapshot(lab.root)
        assert found in (before, after), number
        seen["before" if found == before else "after"] += 1
        # And it can still be done.
        assert found == after or lab.do(request_) == "done"
        assert snapshot(lab.root) == after
        return True

    assert every(run) > 5
    assert seen["before"] > 3
    assert seen["after"] > 0


@pytest.mark.parametrize("name", ["apply", "unpack"])
def test_death_while_taking_back_leaves_all_or_nothing(lab: Lab, name: str) -> None:
    request = REQUESTS[name]
    allowed = outcomes(lab, request)

    def first(number: int) -> bool:
        lab.fresh()
        return lab.do(request, "kill", number) == "died"

    def second(begun: int, number: int) -> bool:
        assert first(begun)
        with lab.agent("recover-kill", number) as channel:
            try:
                channel.start(20)
            except ChannelClosed:
                pass
        died = bool(lab.status)
        lab.recover()
        assert snapshot(lab.root) in allowed, (begun, number)
        return died

    steps, stops = every(first), 0
    for begun in range(steps // 3, steps, max(4, steps // 4)):
        stops += every(partial(second, begun))
    assert stops > 15


@pytest.mark.parametrize("code", ["ENOSPC", "EIO"])
def test_a_failure_at_every_step_changes_nothing(lab: Lab, request_: Request, code: str) -> None:
    before, after = outcomes(lab, request_)
    refusals: set[str] = set()

    def run(number: int) -> bool:
        lab.fresh()
        outcome = lab.do(request_, code, number)
        found = snapshot_without_debris(lab)
        expected = after if outcome == "done" or IN_DOUBT in lab.said else before
        assert outcome != "died"
        assert found == expected, (number, outcome)
        whole = outcome == "done" and not lab.debris()
        lab.recover()
        assert snapshot(lab.root) == expected
        refusals.add(outcome)
        # A failure to sweep up is no failure of the change; it leaves debris for the next agent.
        return not whole or number < 5

    every(run)
    assert refusals == {"done", "disk_full" if code == "ENOSPC" else "internal"}


def test_a_disk_that_stays_broken_is_mended_later(lab: Lab, request_: Request) -> None:
    before, after = outcomes(lab, request_)
    kept = 0

    def run(number: int) -> bool:
        nonlocal kept
        lab.fresh()
        outcome = lab.do(request_, "broken", number)
        kept += bool(lab.debris()) and outcome != "done"
        lab.recover()
        expected = after if outcome == "done" or IN_DOUBT in lab.said else before
        assert snapshot(lab.root) == expected, (number, outcome)
        return outcome != "done"

    every(run)
    assert kept > 0


def test_the_same_agent_takes_back_before_the_next_change(lab: Lab) -> None:
    before, after = outcomes(lab, APPLY)
    mended = 0

    def run(number: int) -> bool:
        nonlocal mended
        lab.fresh()
        with lab.agent("broken", number) as channel:
            channel.start(20)
            try:
                talk(channel, APPLY.verb, APPLY.params, APPLY.data)
                return False
            except RemoteError as error:
                cut = "take back" in error.payload["message"]
                if IN_DOUBT in error.payload["message"]:
                    return True
            if cut:
                with pytest.raises(RemoteError, match="cannot"):
                    talk(channel, WRITE.verb, WRITE.params, WRITE.data)
            lab.healed.touch()
            talk(channel, APPLY.verb, APPLY.params, APPLY.data)
            mended += cut
        lab.recover()
        assert snapshot(lab.root) == after, number
        return True

    every(run)
    assert mended > 10
    assert before != after


def snapshot_without_debris(lab: Lab) -> dict[str, Any]:
    return {path: what for path, what in snapshot(lab.root).items() if not path.startswith(".pyro")}


HOSTILE: list[Any] = [
    b"{",
    b"[]",
    b'{"steps": 5}',
    b'{"steps": [["make", "../outside/x", "", "", 0, 0, 0, 0]]}',
    b'{"steps": [["take", "a", "", "../../outside/secret", 0, 0, 0, 0]]}',
    b'{"steps": [["put", "../outside/secret", "n0", "", 0, 0, 0, 0]]}',
    b'{"steps": [["put", "out/secret", "n0", "", 0, 0, 0, 0]]}',
    b'{"steps": [["mode", "out/secret", "", "", 511, 0, 0, 0]]}',
    b'{"steps": [["put", "a", "out/secret", "", 0, 0, 0, 0], ["explode", "a", "", "", 0, 0, 0, 0]]}',
    b'{"steps": [["put", "\\u0000", "n0", "", 0, 0, 0, 0]]}',
    b"[" * 100_000,
]


@pytest.mark.parametrize("intent", HOSTILE)
def test_a_forged_intent_does_nothing_outside(lab: Lab, intent: bytes) -> None:
    plant(lab.root)
    (lab.root / "out").symlink_to("../outside")
    before = snapshot(lab.root)
    mode = (lab.root.parent / "outside/secret").stat().st_mode
    stage = lab.root / ".pyro-stage-00"
    stage.mkdir()
    (stage / "intent").write_bytes(intent)
    (stage / "o0").symlink_to("../../outside")
    (lab.root / ".pyro-stage-01").symlink_to("../outside")
    (lab.root / ".pyro-stage-02").touch()
    lab.recover()
    assert snapshot(lab.root) == before
    assert (lab.root.parent / "outside/secret").stat().st_mode == mode
