"""`diff` on the real agent, judged by `git apply`, and on one that lies."""

from __future__ import annotations

import json
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
from pyro_mcp.errors import InvalidArgument, NotFound, ProtocolError
from pyro_mcp.model.diff import DiffResult
from pyro_mcp.operations.call import Call
from pyro_mcp.operations.encode import encode
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


def paths(result: DiffResult) -> list[str]:
    return [entry.path for entry in result.entries]


def git(root: Path, *words: str) -> None:
    environ = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b"}
    environ |= {"GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}
    subprocess.run(["git", *words], cwd=root, env=environ, check=True, capture_output=True)


def test_a_commit_inside_is_one_line_and_the_patch_still_applies(based: Lab, tmp_path: Path) -> None:
    git(based.root, "init", "-q")
    change(based.root)
    git(based.root, "add", "-A")
    git(based.root, "commit", "-qm", "x")
    result = diff(based.call, based.place)
    (internals,) = [entry for entry in result.entries if ".git" in entry.path]
    assert (internals.path, internals.status, internals.artifact_type) == (".git", "added", "directory")
    assert (internals.reason, internals.text_patch) == ("git internals", None)
    assert internals.file_count > 20
    assert (result.summary.total, result.summary.non_text) == (12, 1)
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "baseline", copy, symlinks=True)
    subprocess.run(["git", "apply", "-"], input=result.patch.encode(), cwd=copy, check=True)
    shutil.rmtree(based.root / ".git")
    assert Lab(based.place, copy, []).snapshot() == based.snapshot()


def test_every_repository_is_one_line_however_it_changed(based: Lab, tmp_path: Path) -> None:
    for name in ("gone", "touched", "same", "swapped"):
        for root in (tmp_path / "baseline", based.root):
            (root / name / ".git/refs").mkdir(parents=True)
            (root / name / ".git/config").write_text("one")
            (root / name / ".git/refs/head").write_text("one")
    shutil.rmtree(based.root / "gone")
    (based.root / "touched/.git/config").write_text("two")
    shutil.rmtree(based.root / "swapped/.git")
    (based.root / "swapped/.git").write_text("gitdir: elsewhere")
    based.put("new/.GIT/x", "x")
    result = diff(based.call, based.place)
    assert {entry.path: (entry.status, entry.file_count, entry.reason) for entry in result.entries} == {
        "gone/.git": ("deleted", 2, "git internals"),
        "new/.GIT": ("added", 1, "git internals"),
        "swapped/.git": ("type_changed", 3, "git internals"),
        "touched/.git": ("modified", 1, "git internals"),
    }
    assert result.patch == ""


def test_new_files_that_are_ignored_are_counted_and_shown_when_asked(based: Lab, tmp_path: Path) -> None:
    for root in (tmp_path / "baseline", based.root):
        (root / "kept.log").write_text("old\n")
        (root / "old.log").write_text("old\n")
    based.put(".gitignore", "*.log\nnode_modules/\n")
    based.put("kept.log", "new\n")
    (based.root / "old.log").unlink()
    for number in range(3):
        based.put(f"node_modules/m/{number}.js", "x")
    (based.root / "node_modules/empty").mkdir()
    based.put("a.log", "x")
    based.put("src/b.log", "x")
    based.put("src/.gitignore", "!c.log\n")
    based.put("src/c.log", "x")
    result = diff(based.call, based.place)
    assert paths(result) == [".gitignore", "kept.log", "old.log", "src/.gitignore", "src/c.log"]
    assert (result.ignored_count, result.changed) == (5, True)
    assert "b.log" not in result.patch
    whole = diff(based.call, based.place, ignored=True)
    assert {"a.log", "src/b.log", "node_modules/m/0.js", "node_modules/empty"} <= set(paths(whole))
    assert whole.ignored_count == 0
    assert diff(based.call, based.place, exclude=["m/"]).ignored_count == 2


def test_only_ignored_files_are_no_change(based: Lab, tmp_path: Path) -> None:
    for root in (tmp_path / "baseline", based.root):
        (root / ".gitignore").write_text("*.o")
    based.put("out/a.o", "x")
    result = diff(based.call, based.place)
    assert (result.changed, result.entries, result.ignored_count) == (False, [], 1)


def test_paths_and_patterns_narrow_it(based: Lab) -> None:
    change(based.root)
    assert paths(diff(based.call, based.place, paths=["src", "/workspace/a/b/c.txt"])) == [
        "a/b/c.txt",
        "src/app.py",
        "src/gone.py",
    ]
    assert paths(diff(based.call, based.place, paths=["dir"])) == ["dir/deep/f"]
    assert len(diff(based.call, based.place, paths=["."]).entries) == 11
    assert diff(based.call, based.place, paths=["data"]).entries == []
    left = diff(based.call, based.place, exclude=["src/", "*.txt", "link", "/dir"])
    assert paths(left) == ["crlf", "grüße 1", "new file", "no-newline", "run", "was-file"]
    assert paths(diff(based.call, based.place, exclude=["*", "!crlf"])) == ["crlf"]
    with pytest.raises(NotFound, match="neither in the workspace nor"):
        diff(based.call, based.place, paths=["*.py"])
    with pytest.raises(InvalidArgument, match=r"\.\."):
        diff(based.call, based.place, paths=["../x"])


def test_a_stat_counts_without_the_patch(based: Lab) -> None:
    change(based.root)
    whole, short = diff(based.call, based.place), diff(based.call, based.place, stat=True)
    assert short.patch == ""
    assert short.summary == whole.summary
    assert {entry.text_patch for entry in short.entries} == {None}
    lines = [(entry.path, entry.added_lines, entry.deleted_lines) for entry in whole.entries]
    assert [(entry.path, entry.added_lines, entry.deleted_lines) for entry in short.entries] == lines


def read_pages(based: Lab, max_chars: int, *, stat: bool = False) -> list[DiffResult]:
    pages, cursor = [], None
    while True:
        page = diff(based.call, based.place, cursor=cursor, max_chars=max_chars, stat=stat)
        pages.append(page)
        assert page.truncated == (page.next_cursor is not None)
        cursor = page.next_cursor
        if cursor is None:
            return pages


@pytest.mark.parametrize("max_chars", [200, 900, 3000])
def test_a_patch_that_is_longer_than_a_page_comes_in_pieces(based: Lab, tmp_path: Path, max_chars: int) -> None:
    change(based.root)
    (based.root / "src/app.py").write_text("".join(f'grüße "{number}"\n' for number in range(400)))
    (based.root / "src/wide.js").write_text("\\x" * 4000)
    whole, pages = diff(based.call, based.place), read_pages(based, max_chars)
    assert "".join(page.patch for page in pages) == whole.patch
    assert {path for page in pages for path in paths(page)} == set(paths(whole))
    assert {page.summary.total for page in pages} == {whole.summary.total}
    for page in pages:
        assert len(page.patch) <= max(max_chars, 150)
        for entry in page.entries:
            assert (entry.patch_chars_left > 0) == ("//" in (page.next_cursor or "") and entry is page.entries[-1])
    assert any(entry.patch_chars_left for page in pages for entry in page.entries)


@pytest.mark.parametrize("cursor", ["src/app.py//x", "src/app.py//-1", "src/app.py//9999999999"])
def test_what_is_no_cursor_is_refused(based: Lab, cursor: str) -> None:
    change(based.root)
    with pytest.raises(InvalidArgument, match="no next_cursor"):
        diff(based.call, based.place, cursor=cursor)


def test_a_cursor_within_what_has_shrunk_goes_on_behind_it(based: Lab) -> None:
    change(based.root)
    names = paths(diff(based.call, based.place))
    left = diff(based.call, based.place, cursor="src/app.py//999999")
    assert paths(left) == names[names.index("src/app.py") + 1 :]


def test_a_page_of_a_stat_is_full(based: Lab) -> None:
    for number in range(200):
        (based.root / f"new-{number:03}").write_text("x\n")
    pages = read_pages(based, 8_000, stat=True)
    shown = [{name: value for name, value in encode(one).items() if value} for one in pages[0].entries]
    assert 7_500 < len(json.dumps(shown)) <= 8_000
    assert sum(len(page.entries) for page in pages) == 200


def test_pages_hold_whole_entries_and_lose_none(based: Lab) -> None:
    change(based.root)
    whole, pages, cursor = diff(based.call, based.place), [], None
    while True:
        page = diff(based.call, based.place, cursor=cursor, max_chars=900)
        pages.append(page)
        assert page.summary == whole.summary
        assert page.truncated == (page.next_cursor is not None)
        cursor = page.next_cursor
        if cursor is None:
            break
    assert len(pages) > 3
    assert [path for page in pages for path in paths(page)] == paths(whole)
    assert "".join(page.patch for page in pages) == whole.patch
    assert paths(diff(based.call, based.place, cursor="zzz")) == []


@pytest.mark.parametrize("path", [".git/config", "sub/.git/hooks/x", ".GIT/y"])
def test_an_agent_cannot_put_internals_into_the_patch(scripted: Scripted, path: str) -> None:
    def handler(stream: Stream) -> None:
        stream.event({"path": path, "old": None, "new": FILE, "text": [0, 2]})
        stream.send(b"x\n", 1)
        stream.result({"truncated": False})

    result = diff(Call(None), scripted(handler))
    assert (result.patch, [entry.reason for entry in result.entries]) == ("", ["git internals"])


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
