"""`export` from the real agent and from a hostile one: whole or absent, over nothing, reaching nowhere else."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from agentlab import Lab, Scripted

from pyro_mcp.engine.files.export import export
from pyro_mcp.engine.secrets.redact import Masks
from pyro_mcp.errors import Conflict, InvalidArgument, NotFound, ProtocolError, PyroError
from pyro_mcp.operations.call import Call
from pyro_mcp.protocol.channel import Stream
from pyro_mcp.protocol.entries import Encoder, Entry


def test_a_directory_leaves_whole(lab: Lab, tmp_path: Path) -> None:
    lab.put("src/app.py", "print()\n", 0o755)
    lab.put("src/big", bytes(3 << 20) + b"end")
    lab.put("src/setuid", "x", 0o4777)
    lab.put("src/.git/hooks/pre-commit", "x", 0o755)
    lab.put("src/.envrc", "x")
    (lab.root / "src/empty").mkdir()
    (lab.root / "src/inner").symlink_to("app.py")
    (lab.root / "src/outer").symlink_to("/etc/passwd")
    os.mkfifo(lab.root / "src/pipe")
    output = tmp_path / "out"
    result = export(lab.call, lab.place, "src", str(output))
    assert (result.workspace_path, result.output_path, result.artifact_type) == (
        "/workspace/src",
        str(output),
        "directory",
    )
    assert (output / "app.py").read_text() == "print()\n"
    assert (output / "app.py").stat().st_mode & 0o7777 == 0o755
    assert (output / "big").read_bytes() == bytes(3 << 20) + b"end"
    assert (output / "setuid").stat().st_mode & 0o7777 == 0o755
    assert os.readlink(output / "inner") == "app.py"
    assert (output / "empty").is_dir()
    assert sorted(os.listdir(output)) == [".envrc", ".git", "app.py", "big", "empty", "inner", "setuid"]
    assert result.can_run == [".envrc", ".git/hooks/pre-commit"]
    assert {one.path for one in result.skipped} == {"outer", "pipe"}
    assert result.skipped_count == 2
    assert result.bytes_written == 8 + (3 << 20) + 3 + 1 + 1 + 1
    assert [kind for kind, _ in lab.notes] == ["export"]
    assert sorted(os.listdir(tmp_path)) == ["machine", "out"]


def test_one_file_leaves(lab: Lab, tmp_path: Path) -> None:
    lab.put("a/report.txt", "text")
    result = export(lab.call, lab.place, "/workspace/a/report.txt", str(tmp_path / "r"))
    assert (tmp_path / "r").read_text() == "text"
    assert (result.artifact_type, result.entry_count, result.bytes_written) == ("file", 1, 4)


def test_a_name_like_an_archives_is_for_files_and_for_directories_that_have_it(lab: Lab, tmp_path: Path) -> None:
    lab.put("made.tgz", "packed")
    lab.put("dir.tar/x", "x")
    for path, output in (("made.tgz", "out.tar.gz"), ("dir.tar", "mine.tar"), ("dir.tar", "plain.gz")):
        export(lab.call, lab.place, path, str(tmp_path / output))
    assert (tmp_path / "out.tar.gz").read_text() == "packed"
    assert (tmp_path / "mine.tar" / "x").read_text() == "x"


@pytest.mark.parametrize(
    ("path", "output", "error"),
    [
        ("missing", "new", NotFound),
        ("../..", "new", InvalidArgument),
        ("out", "new", InvalidArgument),
        ("f", "there", Conflict),
        ("dir", "new.tar.gz", InvalidArgument),
        ("dir", "new.ZIP", InvalidArgument),
        ("dir.tar", "new.zip", InvalidArgument),
        ("f", "no/where", NotFound),
        ("pipe", "new", InvalidArgument),
    ],
)
def test_what_cannot_be_exported_leaves_nothing(
    lab: Lab, tmp_path: Path, path: str, output: str, error: type[PyroError]
) -> None:
    lab.put("f")
    for name in ("dir", "dir.tar"):
        (lab.root / name).mkdir()
    (lab.root / "out").symlink_to("/etc")
    os.mkfifo(lab.root / "pipe")
    (tmp_path / "there").write_text("mine")
    with pytest.raises(error):
        export(lab.call, lab.place, path, str(tmp_path / output))
    assert (tmp_path / "there").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["machine", "there"]
    assert lab.notes == []


def test_a_relative_output_is_refused(lab: Lab) -> None:
    with pytest.raises(InvalidArgument, match="not absolute"):
        export(lab.call, lab.place, ".", "relative")


def packing(*entries: Entry, data: bytes = b"", answer: dict[str, Any] | None = None) -> Any:
    def handler(stream: Stream) -> None:
        stream.event({"path": "/workspace", "artifact_type": "directory", "mode": 0o755, "mtime_ns": 0})
        encoder = Encoder(lambda piece: stream.send(piece, 1))
        for entry in entries:
            encoder.entry(entry)
            encoder.data(data[: entry.stored])
        encoder.finish()
        stream.result(answer or {})

    return handler


@pytest.mark.parametrize(
    "entries",
    [
        [Entry("link", "symlink", target="/tmp"), Entry("link/x", "file", 0o644)],
        [Entry("a", "file", 0o644), Entry("a", "file", 0o644)],
        [Entry("a", "hardlink", target="b")],
        [Entry("a/b", "file", 0o644)],
        [Entry("a", "whiteout")],
    ],
)
def test_a_hostile_sequence_leaves_nothing(scripted: Scripted, tmp_path: Path, entries: list[Entry]) -> None:
    with pytest.raises((InvalidArgument, ProtocolError)):
        export(Call(None), scripted(packing(*entries)), ".", str(tmp_path / "out"))
    assert os.listdir(tmp_path) == []


def test_a_sequence_that_is_cut_off_leaves_nothing(scripted: Scripted, tmp_path: Path) -> None:
    def handler(stream: Stream) -> None:
        stream.event({"path": "/workspace", "artifact_type": "directory"})
        Encoder(lambda piece: stream.send(piece, 1)).entry(Entry("a", "file", 0o644, size=1000))
        stream.result({})

    with pytest.raises(ProtocolError, match="cut off"):
        export(Call(None), scripted(handler), ".", str(tmp_path / "out"))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("first", [{}, {"path": "/workspace", "artifact_type": "symlink"}, {"path": 1}])
def test_a_head_of_the_wrong_form_leaves_nothing(scripted: Scripted, tmp_path: Path, first: dict[str, Any]) -> None:
    def handler(stream: Stream) -> None:
        stream.event(first)
        stream.result({})

    with pytest.raises(ProtocolError):
        export(Call(None), scripted(handler), ".", str(tmp_path / "out"))
    assert os.listdir(tmp_path) == []


def test_secrets_do_not_leave(lab: Lab, tmp_path: Path) -> None:
    place = replace(lab.place, masks=Masks.of([b"s3cr3t-t0ken"]))
    lab.put("src/kept.txt", "it is s3cr3t-t0ken\n")
    lab.put("src/plain.txt", "nothing\n")
    result = export(lab.call, place, "src", str(tmp_path / "out"))
    assert (tmp_path / "out/kept.txt").read_text() == "it is ************\n"
    assert (tmp_path / "out/plain.txt").read_text() == "nothing\n"
    assert (result.masked_count, result.masked) == (1, ["kept.txt"])
    one = export(lab.call, place, "src/kept.txt", str(tmp_path / "one"))
    assert (tmp_path / "one").read_text() == "it is ************\n"
    assert one.masked == ["one"]


@pytest.mark.parametrize("how", ["name", "link"])
def test_a_name_that_holds_a_secret_stays(how: str, lab: Lab, tmp_path: Path) -> None:
    place = replace(lab.place, masks=Masks.of([b"s3cr3t-t0ken"]))
    (lab.root / "src").mkdir()
    if how == "name":
        lab.put("src/s3cr3t-t0ken.txt", "x")
    else:
        (lab.root / "src/link").symlink_to("s3cr3t-t0ken")
    with pytest.raises(InvalidArgument, match="holds a secret"):
        export(lab.call, place, "src", str(tmp_path / "out"))
    assert sorted(os.listdir(tmp_path)) == ["machine"]
