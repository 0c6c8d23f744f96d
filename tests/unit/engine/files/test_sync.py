"""`sync push` into the real agent: what arrives, what is left out, and that a failure changes nothing."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agentlab import Lab

from pyro_mcp.engine.files import sync as syncing
from pyro_mcp.engine.files.sync import push
from pyro_mcp.errors import Cancelled, Conflict, InvalidArgument, MachineFailed, NotFound
from pyro_mcp.trees.attributes import PRIVILEGED
from pyro_mcp.trees.single import FileSource


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    (root / "sub" / "empty").mkdir(parents=True)
    (root / "run.sh").write_text("#!/bin/sh\n")
    (root / "run.sh").chmod(0o755)
    (root / "sub" / "data").write_bytes(bytes(range(256)) * 5000)
    (root / "sub" / "link").symlink_to("/etc/passwd")
    os.link(root / "run.sh", root / "twin")
    os.mkfifo(root / "pipe")
    with open(os.fsencode(root) + b"/\xff", "wb") as file:
        file.write(b"odd")
    return root


def test_a_directory_arrives_whole(lab: Lab, source: Path) -> None:
    lab.put("vendor/kept", "mine")
    lab.put("vendor/run.sh", "old")
    result = push(lab.call, lab.place, str(source), "vendor")
    root = lab.root / "vendor"
    assert (root / "kept").read_text() == "mine"
    assert (root / "run.sh").read_text() == "#!/bin/sh\n"
    assert (root / "run.sh").stat().st_mode & 0o777 == 0o755
    assert (root / "run.sh").stat().st_ino == (root / "twin").stat().st_ino
    assert (root / "sub" / "data").read_bytes() == (source / "sub" / "data").read_bytes()
    assert os.readlink(root / "sub" / "link") == "/etc/passwd"
    assert (root / "sub" / "empty").is_dir()
    assert Path(os.fsdecode(os.fsencode(root) + b"/\xff")).read_text() == "odd"
    done = result.workspace_sync
    assert (done.mode, done.source_path, done.destination) == ("directory", str(source), "/workspace/vendor")
    assert done.entry_count == 7
    assert done.bytes_written == 256 * 5000 + 10 + 3
    assert (done.skipped_count, [(one.path, one.reason) for one in done.skipped]) == (1, [("pipe", "a named pipe")])
    assert [kind for kind, _ in lab.notes] == ["sync_push"]


def test_an_archive_arrives_whole(lab: Lab, source: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as archive:
        archive.add(source / "sub", "sub")
    done = push(lab.call, lab.place, str(tmp_path / "a.tgz"), "/workspace").workspace_sync
    assert (done.mode, done.destination, done.entry_count) == ("archive", "/workspace", 4)
    assert (lab.root / "sub" / "data").stat().st_size == 256 * 5000


def test_a_single_file_arrives_by_its_name(lab: Lab, tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    (tmp_path / "tool").write_bytes(content)
    (tmp_path / "tool").chmod(0o6755)
    (tmp_path / "other").symlink_to("tool")
    lab.put("bin/other", "replaced")
    for name, dest in (("tool", "/workspace"), ("other", "bin")):
        done = push(lab.call, lab.place, str(tmp_path / name), dest).workspace_sync
        made = lab.root / dest.removeprefix("/workspace").lstrip("/") / name
        assert made.read_bytes() == content
        assert made.stat().st_mode & 0o7777 == 0o755
        assert not made.is_symlink()
        assert made.stat().st_mtime_ns >= (tmp_path / "tool").stat().st_mtime_ns
        assert (done.mode, done.entry_count, done.bytes_written) == ("file", 1, len(content))
        assert done.destination == f"/workspace/{made.relative_to(lab.root)}"
        assert [one.reason for one in done.skipped] == [PRIVILEGED]
    assert lab.notes[-1][1]["destination"] == "/workspace/bin/other"


def test_an_archive_without_an_archives_name_is_a_file(lab: Lab, source: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "layer", "w:gz") as archive:
        archive.add(source / "sub", "sub")
    push(lab.call, lab.place, str(tmp_path / "layer"), "/workspace")
    assert (lab.root / "layer").read_bytes() == (tmp_path / "layer").read_bytes()


@pytest.mark.parametrize("count", [0, 1])
def test_a_file_that_does_not_arrive_whole_changes_nothing(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    lab.put("big", "as it was")
    (tmp_path / "big").write_bytes(b"x" * (8 << 20))
    before = lab.snapshot()
    whole = FileSource.__iter__

    def cut(source: FileSource) -> Iterator[Any]:
        for number, item in enumerate(whole(source)):
            if number > count:
                raise InvalidArgument("cannot read it any more")
            yield item

    monkeypatch.setattr(FileSource, "__iter__", cut)
    with pytest.raises(InvalidArgument, match="any more"):
        push(lab.call, lab.place, str(tmp_path / "big"), "/workspace")
    assert lab.snapshot() == before


def refused(lab: Lab, source: str, dest: str = "in") -> None:
    before = lab.snapshot()
    with pytest.raises((InvalidArgument, NotFound, Conflict)):
        push(lab.call, lab.place, source, dest)
    assert lab.snapshot() == before
    assert lab.notes == []


def test_a_hostile_archive_changes_nothing(lab: Lab, tmp_path: Path) -> None:
    for number, names in enumerate([["../out"], ["/abs"], ["a", "a/b"], ["ok", "x/../../y"]]):
        path = tmp_path / f"{number}.tar"
        with tarfile.open(path, "w") as archive:
            for name in names:
                archive.addfile(tarfile.TarInfo(name))
        refused(lab, str(path))


def test_what_cannot_be_pushed_changes_nothing(lab: Lab, source: Path, tmp_path: Path) -> None:
    (tmp_path / "text.tar").write_text("no archive")
    (tmp_path / "text.TGZ").write_text("no archive")
    (tmp_path / "full").touch()
    os.mkfifo(tmp_path / "pipe")
    lab.put("file")
    lab.put("full/sub", "a file where a directory comes")
    refused(lab, str(tmp_path / "missing"))
    refused(lab, str(tmp_path / "text.tar"))
    refused(lab, str(tmp_path / "text.TGZ"))
    refused(lab, str(tmp_path / "pipe"))
    refused(lab, "/dev/null")
    refused(lab, str(tmp_path / "full"), "/workspace")
    refused(lab, str(tmp_path / "full"), "file")
    refused(lab, "relative/path")
    refused(lab, str(source), "../out")
    refused(lab, str(source), "/etc")
    refused(lab, str(source), "file")
    refused(lab, str(source), "full")


def test_a_cancelled_push_changes_nothing(lab: Lab, source: Path) -> None:
    (source / "big").write_bytes(bytes(32 << 20))
    lab.call.report = lambda message, fraction: lab.call.cancel()
    for number in range(1000):
        (source / f"f{number}").touch()
    with pytest.raises(Cancelled):
        push(lab.call, lab.place, str(source), "in")
    assert lab.snapshot() == {}


@pytest.mark.parametrize("count", [0, 1, 3, 5])
def test_a_node_that_goes_away_amid_a_push_leaves_nothing(
    lab: Lab, source: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    lab.put("in/run.sh", "as it was")
    (source / "long").write_bytes(bytes(8 << 20))
    before = lab.snapshot()
    whole = syncing._Parcel.pieces

    def cut(parcel: syncing._Parcel) -> Iterator[bytes]:
        for number, piece in enumerate(whole(parcel)):
            if number == count:
                lab.place.machine.channel.close("the node died")
            yield piece

    monkeypatch.setattr(syncing._Parcel, "pieces", cut)
    with pytest.raises(MachineFailed, match="is gone"):
        push(lab.call, lab.place, str(source), "in")
    lab.assert_becomes(before)
