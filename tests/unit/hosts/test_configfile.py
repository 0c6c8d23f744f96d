"""A file of another program is replaced whole or not at all, and stays what it was in all but its content."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pyro_mcp.errors import Conflict, PermissionDenied, PyroError, Unsupported
from pyro_mcp.hosts import configfile
from pyro_mcp.hosts.configfile import ConfigFile, Unreadable, held


def test_absent_is_made_and_private(tmp_path: Path) -> None:
    path = tmp_path / "c"
    ConfigFile.load(path).replace("new\n")
    assert path.read_text() == "new\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_mode_owner_and_attributes_stay(tmp_path: Path) -> None:
    path = tmp_path / "c"
    path.write_text("old")
    path.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(path, 12, 34)
    os.setxattr(path, "user.mine", b"kept")
    before = path.stat()
    ConfigFile.load(path).replace("new")
    after = path.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert os.getxattr(path, "user.mine") == b"kept"
    assert [one.name for one in tmp_path.iterdir()] == ["c"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"a\r\nb\r\n", b"a\r\nnew\r\n"),
        (b"a\r\nb\n", b"a\nnew\n"),
        (b"\xef\xbb\xbfa\n", b"\xef\xbb\xbfa\nnew\n"),
    ],
)
def test_line_ends_and_byte_order_mark_stay(tmp_path: Path, old: bytes, new: bytes) -> None:
    path = tmp_path / "c"
    path.write_bytes(old)
    file = ConfigFile.load(path)
    assert file.text is not None
    assert "\r" not in file.text or b"\r\n" not in new
    file.replace("a\nnew\n")
    assert path.read_bytes() == new


def test_a_link_stays_and_what_it_leads_to_changes(tmp_path: Path) -> None:
    real = tmp_path / "dotfiles" / "c"
    real.parent.mkdir()
    real.write_text("old")
    link = tmp_path / "c"
    link.symlink_to("dotfiles/c")
    ConfigFile.load(link).replace("new")
    assert (os.readlink(link), real.read_text()) == ("dotfiles/c", "new")


def test_a_dangling_link_and_a_loop_are_refused(tmp_path: Path) -> None:
    (tmp_path / "c").symlink_to("later")
    (tmp_path / "d").symlink_to("c")
    for path, link in (("c", "c"), ("d", "d"), ("d/below/c", "d")):
        with pytest.raises(Conflict, match=f"/{link} is a link to {tmp_path}/later, which is not there"):
            ConfigFile.load(tmp_path / path)
    assert not (tmp_path / "later").exists()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(PyroError, match="symbolic links"):
        ConfigFile.load(tmp_path / "loop")


def test_a_projects_file_stays_in_the_project(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "mine").write_text("{}")
    (tmp_path / "project" / "c").symlink_to("../mine")
    with pytest.raises(Conflict, match="leads out of the project"):
        ConfigFile.load(tmp_path / "project" / "c", within=tmp_path / "project")


@pytest.mark.parametrize("kind", ["directory", "pipe", "binary", "huge"])
def test_what_is_no_text_file_is_refused(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c"
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "binary":
        path.write_bytes(b"\xff\xfe")
    else:
        monkeypatch.setattr(configfile, "MAX_BYTES", 10)
        path.write_bytes(b"x" * 11)
    with pytest.raises(Unreadable, match=re.escape(str(path))):
        ConfigFile.load(path)


def test_read_only_is_left_alone_also_by_root(tmp_path: Path) -> None:
    path = tmp_path / "c"
    path.write_text("old")
    path.chmod(0o444)
    with pytest.raises(PermissionDenied, match="read-only"):
        ConfigFile.load(path).replace("new")
    assert path.read_text() == "old"


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root to become somebody else")
def test_a_directory_that_may_not_be_written(tmp_path: Path) -> None:
    path = tmp_path / "c"
    path.write_text("old")
    for one in (tmp_path, *tmp_path.parents):
        if str(one).startswith("/tmp/"):
            one.chmod(0o755)
    path.chmod(0o666)
    code = (
        "import os, sys\nfrom pathlib import Path\n"
        "from pyro_mcp.errors import PermissionDenied\n"
        "from pyro_mcp.hosts.configfile import ConfigFile\n"
        "os.setegid(65534); os.seteuid(65534)\n"
        "try:\n    ConfigFile.load(Path(sys.argv[1])).replace('new')\n"
        "except PermissionDenied as error:\n    print(error.message)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60)
    assert "Permission denied" in done.stdout, done.stderr
    assert path.read_text() == "old"


def test_hard_links_are_not_parted(tmp_path: Path) -> None:
    path = tmp_path / "c"
    path.write_text("old")
    os.link(path, tmp_path / "twin")
    with pytest.raises(Unsupported, match="2 hard links"):
        ConfigFile.load(path).replace("new")
    assert (path.read_text(), (tmp_path / "twin").read_text()) == ("old", "old")


@pytest.mark.parametrize("what", ["changed", "removed", "made"])
def test_what_another_program_did_meanwhile_is_not_overwritten(tmp_path: Path, what: str) -> None:
    path = tmp_path / "c"
    if what != "made":
        path.write_text("old")
    file = ConfigFile.load(path)
    path.unlink() if what == "removed" else path.write_text("theirs")
    with pytest.raises(PyroError):
        file.replace("ours")
    assert not path.exists() if what == "removed" else path.read_text() == "theirs"
    assert len(list(tmp_path.iterdir())) == (what != "removed")


def test_what_is_taken_back_is_as_before_and_never_what_another_wrote(tmp_path: Path) -> None:
    path, absent = tmp_path / "c", tmp_path / "absent"
    path.write_bytes(b"\xef\xbb\xbfold\r\n")
    file, made = ConfigFile.load(path), ConfigFile.load(absent)
    for one in (file, made):
        one.replace("new")
        one.restore("new")
    assert path.read_bytes() == b"\xef\xbb\xbfold\r\n"
    assert not absent.exists()
    file.replace("new")
    path.write_text("theirs")
    with pytest.raises(Conflict):
        file.restore("new")
    assert path.read_text() == "theirs"


@pytest.mark.parametrize("locked", ["file", "directory"])
def test_a_file_that_another_program_holds_is_left_alone(
    tmp_path: Path, locked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(configfile, "HELD_SECONDS", 0.2)
    path = tmp_path / "c"
    path.write_text("old")
    descriptor = os.open(path if locked == "file" else tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(Conflict, match="another program holds it"), held(path):
        raise AssertionError("held")
    os.close(descriptor)
    with held(path):
        assert path.read_text() == "old"


def test_two_of_ours_come_one_after_the_other(tmp_path: Path) -> None:
    path = tmp_path / "c"
    path.write_text("")

    def add(line: str) -> None:
        with held(path):
            file = ConfigFile.load(path)
            file.replace(f"{file.text}{line}\n")

    threads = [threading.Thread(target=add, args=(str(at),)) for at in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(path.read_text().split()) == [str(at) for at in range(8)]


@pytest.mark.parametrize("at", ["os.open", "os.fsync", "os.rename"])
def test_killed_at_any_point_the_file_is_whole(tmp_path: Path, at: str) -> None:
    path = tmp_path / "c"
    path.write_text("old")
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom pyro_mcp.hosts.configfile import ConfigFile\n"
        "file = ConfigFile.load(Path(sys.argv[1]))\n"
        f"{at} = lambda *words, **named: os.kill(os.getpid(), signal.SIGKILL)\n"
        "file.replace('new')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    ConfigFile.load(path).replace("new")
    assert [one.name for one in tmp_path.iterdir()] == ["c"]
