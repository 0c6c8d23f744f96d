"""The file commands on the command line: texts from files, paths seen from here, and what a person reads."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest

from pyro_mcp.errors import InvalidArgument
from pyro_mcp.model.diff import DiffEntry, DiffResult, DiffSummary
from pyro_mcp.model.export import ExportResult
from pyro_mcp.model.file import FileContent, FileEdited, FileEntry, FileList, FileMatch, FileSearch, FileWritten
from pyro_mcp.model.patch import PatchEntry, PatchResult, PatchSummary
from pyro_mcp.model.sync import Skipped, SyncResult, WorkspaceSync
from pyro_mcp.surfaces.cli import render
from pyro_mcp.surfaces.cli.invoke import arguments
from pyro_mcp.surfaces.cli.output import Output
from pyro_mcp.surfaces.cli.parser import parse

STAMP: Any = {"workspace_id": "ws-0123456789ab", "execution_mode": "guest", "isolation": "emulated"}
CONTENT: Any = {**STAMP, "path": "/workspace/a", "max_bytes": 9, "sha256": None, "size_bytes": 3}
ESCAPE = "\x1b]0;title\x07"


def params(*words: str) -> dict[str, Any]:
    namespace = parse(["workspace", *words])
    return arguments(namespace.operation, namespace)[0]


def test_a_path_may_be_left_out() -> None:
    assert params("file", "list", "w") == {"workspace_id": "w"}
    assert params("file", "list", "w", "src", "--recursive") == {"workspace_id": "w", "path": "src", "recursive": True}
    assert params("file", "search", "w", "def", "src")["path"] == "src"
    with pytest.raises(InvalidArgument, match="PATH"):
        params("file", "read", "w")


def test_a_parameter_may_be_called_as_anything_the_parser_keeps() -> None:
    assert params("export", "w", "src", "--output", "here", "--json")["output"] == "here"


def test_a_text_comes_from_a_flag_a_file_or_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text").write_bytes("é\r\nno end".encode())
    assert params("file", "write", "w", "f", "--text", "x")["text"] == "x"
    assert params("file", "write", "w", "f", "--text-file", str(tmp_path / "text"))["text"] == "é\r\nno end"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"--- a/x\n")))
    assert params("patch", "apply", "w", "--patch-file", "-")["patch"] == "--- a/x\n"
    with pytest.raises(InvalidArgument, match="exclude each other"):
        params("file", "write", "w", "f", "--text", "x", "--text-file", str(tmp_path / "text"))


def test_paths_of_a_diff_may_stand_on_both_sides_of_a_flag() -> None:
    assert not params("diff", "w")["paths"]
    assert params("diff", "w", "a", "b")["paths"] == ["a", "b"]
    given = params("diff", "w", "a", "--stat", "b", "--exclude", "*.o", "--exclude", "x/", "c")
    assert given == {"workspace_id": "w", "paths": ["a", "b", "c"], "stat": True, "exclude": ["*.o", "x/"]}
    assert params("diff", "--ignored", "w", "a")["paths"] == ["a"]
    with pytest.raises(InvalidArgument, match="--nope"):
        params("diff", "w", "--stat", "a", "--nope")


def test_an_edit_comes_from_flags_or_files(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("a\n")
    given = params("file", "edit", "w", "f", "--old-file", str(tmp_path / "old"), "--new", "", "--replace-all")
    assert given == {"workspace_id": "w", "path": "f", "old_string": "a\n", "new_string": "", "replace_all": True}
    (tmp_path / "edits").write_text('[{"old_string": "a", "new_string": "b"}]')
    given = params("file", "edit", "w", "f", "--edits-file", str(tmp_path / "edits"))
    assert given["edits"] == [{"old_string": "a", "new_string": "b"}]
    (tmp_path / "edits").write_text('[{"old_string": "a"')
    with pytest.raises(InvalidArgument, match="not JSON"):
        params("file", "edit", "w", "f", "--edits-file", str(tmp_path / "edits"))


@pytest.mark.parametrize(("content", "message"), [(None, "No such file"), (b"\xff", "not UTF-8")])
def test_a_text_file_that_cannot_be_used_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "text"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidArgument, match=message) as caught:
        params("file", "write", "w", "f", "--text-file", str(path))
    assert str(path) in caught.value.message


def test_host_paths_are_seen_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace = parse(["workspace", "sync", "push", "w", "src/../lib", "--dest", "lib"])
    operation = namespace.operation
    given = arguments(operation, namespace)[0]
    assert operation.localized(given) == {**given, "source_path": str(tmp_path / "lib")}
    assert operation.request(("w", "."), {})[0]["source_path"] == str(tmp_path)
    assert operation.request(("w", "~/x"), {})[0]["source_path"] == str(Path.home() / "x")


def drawn(capfd: pytest.CaptureFixture[str], verb: str, result: Any) -> tuple[str, str]:
    render.show(verb, result, Output(as_json=False))
    return capfd.readouterr()


def test_a_listing_is_a_table(capfd: pytest.CaptureFixture[str]) -> None:
    entries = [
        FileEntry(path="/workspace/src", artifact_type="directory"),
        FileEntry(path="/workspace/a" + ESCAPE, artifact_type="file", size_bytes=2048),
        FileEntry(path="/workspace/l", artifact_type="symlink", link_target="a"),
    ]
    common: Any = {**STAMP, "path": "/workspace", "recursive": False, "pattern": None}
    out, _ = drawn(capfd, "list_workspace_files", FileList(**common, count=3, truncated=True, entries=entries))
    assert "src/" in out
    assert "2 KiB" in out
    assert "l -> a" in out
    assert "there are more" in out
    assert "\x1b" not in out
    page = FileList(**common, count=3, offset=3, next_offset=6, truncated=True, entries=entries)
    assert "3; there are more (--offset 6)" in drawn(capfd, "list_workspace_files", page)[0]
    empty = FileList(**common, count=0, truncated=False, entries=[])
    assert drawn(capfd, "list_workspace_files", empty)[0] == "nothing in /workspace\n"


def test_a_file_is_its_content_and_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    text = FileContent(**CONTENT, truncated=True, binary=False, content="one")
    out, err = drawn(capfd, "read_workspace_file", text)
    assert out == "one"
    assert "beginning of 3 bytes" in err
    part = FileContent(**CONTENT, truncated=True, binary=False, content="one", next_offset=2)
    assert "read on with --offset 2" in drawn(capfd, "read_workspace_file", part)[1]
    numbered = FileContent(**CONTENT, truncated=True, binary=False, content="a\nb\n", first_line=9, next_line=11)
    assert drawn(capfd, "read_workspace_file", numbered) == (
        "     9\ta\n    10\tb\n",
        "pyro: read on with --offset-lines 11\n",
    )
    binary = FileContent(**CONTENT, truncated=False, binary=True, content="")
    out, err = drawn(capfd, "read_workspace_file", binary)
    assert out == ""
    assert "is binary" in err
    Output(as_json=True).verbatim("as it stands\r\n")
    assert capfd.readouterr().out == "as it stands\r\n"


def test_a_diff_is_a_patch_on_stdout(capfd: pytest.CaptureFixture[str]) -> None:
    summary = DiffSummary(total=2, added=1, modified=1, deleted=0, type_changed=0, text_patched=1, non_text=1)
    entries = [
        DiffEntry(path="a", status="added", artifact_type="file", text_patch="patch\n"),
        DiffEntry(path="b", status="modified", artifact_type="file", reason="binary"),
    ]
    whole = DiffResult(**STAMP, changed=True, summary=summary, truncated=False, entries=entries, patch="patch\n")
    out, err = drawn(capfd, "diff_workspace", whole)
    assert out == "patch\n"
    assert "M b: binary, not in the patch" in err
    entries.append(
        DiffEntry(path=".git", status="added", artifact_type="directory", reason="git internals", file_count=12)
    )
    more = DiffResult(
        **STAMP, changed=True, summary=summary, truncated=False, entries=entries, patch="patch\n", ignored_count=3
    )
    err = drawn(capfd, "diff_workspace", more)[1]
    assert ".git: 12 files changed (internals, not in the patch)" in err
    assert "+ 3 ignored files, --ignored shows them" in err


def test_a_stat_is_a_line_for_each_path(capfd: pytest.CaptureFixture[str]) -> None:
    summary = DiffSummary(total=3, added=2, modified=1, deleted=0, type_changed=0, text_patched=1, non_text=2)
    entries = [
        DiffEntry(path=".git", status="added", artifact_type="directory", reason="git internals", file_count=2),
        DiffEntry(path="a", status="modified", artifact_type="file", added_lines=3, deleted_lines=1),
        DiffEntry(path="b", status="added", artifact_type="file", reason="binary"),
    ]
    stat = DiffResult(**STAMP, changed=True, summary=summary, truncated=False, entries=entries, patch="")
    out, err = drawn(capfd, "diff_workspace", stat)
    assert out == "A .git  2 files changed\nM a  +3 -1\nA b  binary\n3 paths changed, +3 -1\n"
    assert err == ""


def test_the_other_answers_are_a_few_lines(capfd: pytest.CaptureFixture[str]) -> None:
    edited = FileEdited(
        **STAMP,
        path="/workspace/a",
        size_bytes=3,
        created=False,
        replacements=2,
        first_changed_line=7,
        line_ends="crlf",
        sha256="0" * 64,
    )
    out = drawn(capfd, "edit_workspace_file", edited)[0]
    assert out == "2 replacements in /workspace/a, from line 7 on: 3 bytes; its line ends (CRLF) are kept\n"
    written = FileWritten(**STAMP, path="/workspace/a", size_bytes=3, bytes_written=3, created=True, sha256="0" * 64)
    assert drawn(capfd, "write_workspace_file", written)[0] == "made /workspace/a: 3 bytes\n"
    found = FileSearch(
        **STAMP,
        path=".",
        pattern="x",
        glob=None,
        count=1,
        truncated=False,
        timed_out=False,
        files_searched=4,
        files_skipped=1,
        matches=[FileMatch(path="/workspace/a", line=7, text="x = 1")],
    )
    assert drawn(capfd, "search_workspace_files", found)[0] == (
        "a:7: x = 1\n1 line in 1 file, 4 searched, 1 binary or large left out\n"
    )
    patched = PatchResult(
        **STAMP,
        changed=True,
        summary=PatchSummary(total=1, added=0, modified=0, deleted=1),
        entries=[PatchEntry(path="a", status="deleted")],
        patch="",
    )
    assert drawn(capfd, "apply_workspace_patch", patched)[0] == "D a\n"
    skipped = [Skipped(path="p", reason="a named pipe")]
    done = WorkspaceSync(
        mode="directory", source_path="/s", destination="/workspace", entry_count=2, bytes_written=3, skipped_count=2
    )
    pushed = SyncResult(**STAMP, workspace_sync=done)
    assert "/s is in /workspace: 2 entries, 3 B\nand 2 more" in drawn(capfd, "push_workspace_sync", pushed)[0]
    exported = ExportResult(
        **STAMP,
        workspace_path="/workspace",
        output_path="/o",
        artifact_type="directory",
        entry_count=1,
        bytes_written=1,
        can_run=[".envrc"],
        skipped_count=1,
        skipped=skipped,
    )
    out = drawn(capfd, "export_workspace", exported)[0]
    assert "left out or altered: p: a named pipe" in out
    assert out.endswith("  .envrc\n")
