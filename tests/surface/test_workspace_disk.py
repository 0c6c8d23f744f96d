"""A stopped workspace's disk over SDK, CLI and MCP: merged as the guest saw it, without booting it."""

from __future__ import annotations

import os
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.guest

MAKE = """
set -e
echo more >> kept.txt; rm gone.txt; rm -rf old; mkdir old; echo new > old/new.txt
ln -s /etc/passwd link; ln -s "$(printf %0100d 0)" long; mkdir -p deep/er; echo x > deep/er/x
printf 'a\\0b' > binary; mkfifo pipe; mkdir over; echo o > over/o
perl -e 'rename($_->[0], $_->[1]) or die "$_->[0]: $!" for ["moved","gone2"],["gone2/sub","deep/sub"],["twice","moved"]'
echo longer >> hard; rm harder; mv hardest renamed
rm gone2/c; echo again > deep/sub/again; mkdir twice; echo t > twice/t
touch "$(printf 'odd\\ndebugfs: ls -p <2>\\n')"; touch "$(printf '\\377')"
echo SCRUBME-0123456789 > deleted; sync; rm deleted; echo inside > /root/file
"""


def test_a_stopped_disk_is_read_as_the_guest_saw_it(surface: Any, tmp_path: Path) -> None:
    seed = tmp_path / "seed"
    (seed / "old" / "below").mkdir(parents=True)
    (seed / "deep" / "er").mkdir(parents=True)
    (seed / "moved/sub/below").mkdir(parents=True)
    (seed / "twice/a").mkdir(parents=True)
    (seed / "hard").write_text("hard\n")
    for name in ("harder", "hardest", "twice/hard", "moved/hard", "moved/sub/hard"):
        os.link(seed / "hard", seed / name)
    for name in ("moved/a", "moved/c", "moved/sub/b", "moved/sub/below/d", "twice/a/f", "twice/g"):
        (seed / name).write_text(name)
    for name in ("kept.txt", "gone.txt", "plain.txt", "old/old.txt", "deep/seeded", "deep/er/y"):
        (seed / name).write_text(f"{name}\n")
    made = surface.do("create_workspace", environment="debian:12", mem_mib=512, seed_path=str(seed))
    name = made["workspace_id"]
    try:
        with pytest.raises(Exception, match="not stopped"):
            surface.do("list_workspace_disk", workspace_id=name)
        done = surface.do("exec_workspace", workspace_id=name, command=["sh", "-c", MAKE])
        assert (done["stderr"], done["exit_code"]) == ("", 0)
        alive = surface.do("list_workspace_files", workspace_id=name, recursive=True)
        surface.do("stop_workspace", workspace_id=name)
        dead = surface.do("list_workspace_disk", workspace_id=name, recursive=True)
        key = ("path", "artifact_type", "size_bytes", "link_target")
        rows = [sorted(tuple(str(one[part]) for part in key) for one in told["entries"]) for told in (alive, dead)]
        assert rows[0] == rows[1]
        below = surface.do("list_workspace_disk", workspace_id=name, path="deep")
        assert [one["path"] for one in below["entries"]] == [
            "/workspace/deep/er",
            "/workspace/deep/seeded",
            "/workspace/deep/sub",
        ]
        read = surface.do("read_workspace_disk", workspace_id=name, path="kept.txt")
        assert (read["content"], read["truncated"]) == ("kept.txt\nmore\n", False)
        assert surface.do("read_workspace_disk", workspace_id=name, path="plain.txt", max_bytes=5)["content"] == "plain"
        assert surface.do("read_workspace_disk", workspace_id=name, path="binary")["binary"]
        for path in ("gone.txt", "../etc", "link", "/etc/passwd", "old"):
            with pytest.raises(Exception, match="cannot"):
                surface.do("read_workspace_disk", workspace_id=name, path=path)
        read = surface.do("read_workspace_disk", workspace_id=name, path="deep/sub/below/d")
        assert read["content"] == "moved/sub/below/d"
        for path in ("hard", "renamed", "moved/hard", "gone2/hard", "deep/sub/hard"):
            content = surface.do("read_workspace_disk", workspace_id=name, path=path)["content"]
            assert content == "hard\nlonger\n", path
        _export(surface, name, tmp_path / "disk.ext4")
        surface.do("start_workspace", workspace_id=name)
        again = surface.do("read_workspace_file", workspace_id=name, path="kept.txt")
        assert again["content"] == "kept.txt\nmore\n"
    finally:
        surface.do("delete_workspace", workspace_id=name)


def test_a_guest_that_died_leaves_a_disk_that_can_be_read(surface: Any) -> None:
    """Its journal has not been played back: what was synced is there all the same."""
    name = surface.do("create_workspace", environment="debian:12", mem_mib=512)["workspace_id"]
    try:
        line = "mkdir a; echo safe > a/file; sync; echo b > /proc/sysrq-trigger"
        with pytest.raises(Exception, match="gone"):
            surface.do("exec_workspace", workspace_id=name, command=["sh", "-c", line])
        deadline = time.monotonic() + 10
        while surface.do("status_workspace", workspace_id=name)["state"] != "stopped":
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert surface.do("read_workspace_disk", workspace_id=name, path="a/file")["content"] == "safe\n"
        assert surface.do("exec_workspace", workspace_id=name, command=["cat", "a/file"])["stdout"] == "safe\n"
    finally:
        surface.do("delete_workspace", workspace_id=name)


def _export(surface: Any, name: str, target: Path) -> None:
    done = surface.do("export_workspace_disk", workspace_id=name, output=str(target))
    assert done["size_bytes"] == target.stat().st_size == 8192 * 1024**2
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert target.stat().st_blocks * 512 < 200 * 1024**2
    assert subprocess.run(["e2fsck", "-fn", target], capture_output=True).returncode == 0
    shown = subprocess.run(["debugfs", "-R", "cat /workspace/upper/kept.txt", target], capture_output=True).stdout
    assert shown == b"kept.txt\nmore\n"
    found = subprocess.run(["grep", "-c", "SCRUBME-0123456789", target], capture_output=True, text=True)
    assert found.stdout.strip() == "0"
    with pytest.raises(Exception, match="it exists"):
        surface.do("export_workspace_disk", workspace_id=name, output=str(target))
    assert [path.name for path in target.parent.iterdir() if path.name.startswith(".")] == []
