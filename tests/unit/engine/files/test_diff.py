"""`diff` on the real agent, judged by `git apply`, and on one that lies."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from agentlab import WORKSPACE, Lab, Scripted, ScriptedMachine

import pyro_mcp
from pyro_mcp.engine.files import diff as diffing
from pyro_mcp.engine.files.diff import diff
from pyro_mcp.engine.session import Session
from pyro_mcp.errors import ProtocolError
from pyro_mcp.operations.call import Call
from pyro_mcp.protocol.channel import Channel, Stream
from pyro_mcp.protocol.pipe import Pipe

START = "import sys; sys.path.insert(0, sys.argv.pop(1)); from pyro_mcp.guest.main import main; sys.exit(main())"


def seed(root: Path) -> None:
    for name, text in {
        "src/app.py": "".join(f"line {number}\n" for number in range(60)),
        "src/gone.py": "bye\n",
        "no-newline": "one\ntwo",
        "crlf": "a\r\nb\r\n",
        "run": "#!/bin/sh\n",
        "was-file": "text\n",
        "dir/deep/f": "x\n",
        "grüße 1": "hallo\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(text.encode())
    (root / "data").write_bytes(b"\0\1\2")
    (root / "link").symlink_to("run")
    (root / "empty").mkdir()


@pytest.fixture
def based(tmp_path: Path) -> Iterator[Lab]:
    """A lab whose workspace started from a seed."""
    root, baseline = tmp_path / "root", tmp_path / "baseline"
    baseline.mkdir()
    seed(baseline)
    shutil.copytree(baseline, root, symlinks=True)
    ours, theirs = socket.socketpair()
    source = str(Path(pyro_mcp.__path__[0]).parent)
    options = ["--fd", str(theirs.fileno()), "--root", str(root), "--baseline", str(baseline)]
    process = subprocess.Popen([sys.executable, "-I", "-S", "-c", START, source, *options], pass_fds=[theirs.fileno()])
    theirs.close()
    channel = Channel(Pipe(ours.detach()), initiator=True, hello={"role": "node"})
    channel.start(20)
    machine: Any = ScriptedMachine(channel)
    yield Lab(Session(WORKSPACE, machine, lambda kind, detail: None), root, [])
    channel.close()
    process.wait(10)


def test_an_untouched_workspace_has_no_diff(based: Lab) -> None:
    result = diff(based.call, based.place)
    assert (result.changed, result.summary.total, result.patch, result.entries) == (False, 0, "", [])


def change(root: Path) -> None:
    text = (root / "src/app.py").read_text()
    (root / "src/app.py").write_text(text.replace("line 3\n", "LINE 3\n").replace("line 50\n", ""))
    (root / "src/gone.py").unlink()
    (root / "no-newline").write_text("one\nTWO")
    (root / "crlf").write_bytes(b"a\r\nB\r\n")
    (root / "run").chmod(0o755)
    (root / "was-file").unlink()
    (root / "was-file").symlink_to("run")
    shutil.rmtree(root / "dir")
    (root / "grüße 1").write_text("hello\n")
    (root / "new file").write_text("")
    (root / "a/b").mkdir(parents=True)
    (root / "a/b/c.txt").write_text("new\n")
    (root / "link").unlink()
    (root / "link").symlink_to("crlf")


def test_git_applies_it_and_gets_the_same_tree(based: Lab, tmp_path: Path) -> None:
    change(based.root)
    result = diff(based.call, based.place)
    assert {entry.path: entry.status for entry in result.entries} == {
        "a/b/c.txt": "added",
        "crlf": "modified",
        "dir/deep/f": "deleted",
        "grüße 1": "modified",
        "link": "modified",
        "new file": "added",
        "no-newline": "modified",
        "run": "modified",
        "src/app.py": "modified",
        "src/gone.py": "deleted",
        "was-file": "type_changed",
    }
    assert all(entry.text_patch for entry in result.entries)
    assert (result.summary.total, result.summary.text_patched, result.summary.non_text) == (11, 11, 0)
    copy = Lab(based.place, tmp_path / "copy", [])
    shutil.copytree(tmp_path / "baseline", copy.root, symlinks=True)
    subprocess.run(["git", "apply", "-"], input=result.patch.encode(), cwd=copy.root, check=True)
    assert copy.snapshot() == based.snapshot()
    assert os.readlink(copy.root / "was-file") == "run"


def test_what_text_cannot_say_is_told(based: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diffing, "TEXT_LIMIT", 1000)
    (based.root / "data").write_bytes(b"\0\1\3")
    (based.root / "latin").write_bytes(b"gr\xfc\xdfe\n")
    (based.root / "large").write_text("x" * 2000)
    (based.root / "run").chmod(0o600)
    (based.root / "new-dir").mkdir()
    (based.root / "empty").rmdir()
    result = diff(based.call, based.place)
    assert {entry.path: (entry.status, entry.reason) for entry in result.entries} == {
        "data": ("modified", "binary"),
        "empty": ("deleted", "directory"),
        "large": ("added", "too large"),
        "latin": ("added", "binary"),
        "new-dir": ("added", "directory"),
        "run": ("modified", "permissions"),
    }
    assert (result.changed, result.patch, result.summary.non_text) == (True, "", 6)


def test_an_answer_that_is_too_large_loses_texts_first(based: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(10):
        based.put(f"n{number}", "text\n" * 100)
    monkeypatch.setattr(diffing, "ANSWER_BYTES", 8000)
    result = diff(based.call, based.place)
    assert (len(result.entries), result.truncated) == (10, False)
    assert 0 < result.summary.text_patched < 10
    monkeypatch.setattr(diffing, "ANSWER_BYTES", 1000)
    result = diff(based.call, based.place)
    assert 0 < len(result.entries) < 10
    assert result.truncated


FILE = {"artifact_type": "file", "mode": 0o644, "size_bytes": 2}


def telling(*events: dict[str, Any], data: bytes = b"") -> Callable[[Stream], None]:
    def handler(stream: Stream) -> None:
        for event in events:
            stream.event(event)
        stream.send(data, 1)
        stream.result({"truncated": False})

    return handler


@pytest.mark.parametrize(
    ("events", "data"),
    [
        ([{"path": "../x", "old": None, "new": FILE}], b""),
        ([{"path": "x", "old": None, "new": None}], b""),
        ([{"path": "x", "old": None, "new": {**FILE, "mode": -1}}], b""),
        ([{"path": "x", "old": None, "new": {**FILE, "mode": "rw"}}], b""),
        ([{"path": "x", "old": None, "new": FILE, "text": [0, 1 << 40]}], b""),
        ([{"path": "x", "old": None, "new": FILE, "text": [0, 5]}], b"abc"),
        ([{"path": "x", "old": None, "new": FILE, "text": [0, 2]}], b"abc"),
        ([{"path": "x", "old": None, "new": FILE, "text": [0, 2]}, {"path": "y", "old": None, "new": FILE}], b"ab"),
        ([], b"abc"),
        ([{"nonsense": 1}], b""),
    ],
)
def test_a_lying_agent_is_refused(scripted: Scripted, events: list[dict[str, Any]], data: bytes) -> None:
    with pytest.raises(ProtocolError):
        diff(Call(None), scripted(telling(*events, data=data)))


def test_too_many_changes_are_refused(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diffing, "MAX_CHANGES", 2)
    events = [{"path": f"f{number}", "old": None, "new": FILE} for number in range(3)]
    with pytest.raises(ProtocolError):
        diff(Call(None), scripted(telling(*events)))
