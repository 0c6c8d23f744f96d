"""/workspace on a real guest: the overlay's own ways, and what is saved of it comes back."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from pyro_mcp.machines.qemu.command import DISK_BYTES
from pyro_mcp.machines.qemu.driver import QemuMachine
from pyro_mcp.protocol.channel import RemoteError
from pyro_mcp.protocol.entries import Entry, EntryDecoder
from pyro_mcp.trees.seed import build_seed
from pyro_mcp.trees.source import DirectorySource

from .workspacelab import changed, sh, talk

pytestmark = pytest.mark.guest


@pytest.fixture
def seed(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    (tree / "dir/sub").mkdir(parents=True)
    (tree / "emptied").mkdir()
    for name in ("kept", "edited", "gone", "dir/a", "dir/sub/b", "emptied/x"):
        (tree / name).write_text(name)
    (tree / "run").write_text("#!/bin/sh\necho ran\n")
    (tree / "run").chmod(0o755)
    (tree / "link").symlink_to("kept")
    image = tmp_path / "seed.ext4"
    build_seed(DirectorySource(tree), tree, image, device_bytes=DISK_BYTES)
    return image


EXPECTED = {
    "copy/sub/b": "added",
    "dir/a": "deleted",
    "dir/new": "added",
    "dir/sub/b": "deleted",
    "edited": "modified",
    "emptied/x": "deleted",
    "gone": "deleted",
    "run": "modified",
    "link": "type_changed",
    "moved": "added",
}
LIST = "find . -mindepth 1 ! -name edited ! -name tick | sort; cat edited moved; stat -c %a run; readlink soft"


def test_the_overlay_in_every_way_and_back(launch_workspace: Any) -> None:
    one = launch_workspace(load=False)
    assert sh(one, "pwd; ./run; stat -c '%U %a' .").split() == ["/workspace", "ran", "root", "755"]
    assert changed(one) == {}
    sh(one, "echo new > edited; rm gone; mv dir/sub copy; rm -r dir; mkdir dir; echo n > dir/new; chmod 700 run")
    sh(one, "mkdir copy/sub; mv copy/b copy/sub/; rm emptied/x; rm link; mkdir link; echo m > moved; touch kept")
    sh(one, "mkfifo pipe; mv moved m2; mv m2 moved; rm pipe")
    assert changed(one) == EXPECTED
    assert sh(one, "ls /run/pyro; ls -d /pyro 2>&1 || true").startswith("runtime\nls: cannot")

    _secrets_and_files(one)
    sh(one, "rm -f written; ln -s nowhere soft; ln moved twin; truncate -s 1T giant; useradd -M u 2>/dev/null || true")
    before = sh(one, LIST)
    result, saved, _ = talk(one.channel, "overlay_save", {})
    assert len(saved) < 65536
    assert (result["skipped_count"], result["changed_count"]) == (0, 0)
    one.terminate()

    two = launch_workspace(load=True)
    _load(two, saved)
    assert sh(two, LIST) == before
    assert sh(two, "stat -c %h twin; stat -c %s giant").split() == ["2", str(1 << 40)]
    assert changed(two) == {**EXPECTED, "soft": "added", "twin": "added", "giant": "added"}


def test_only_what_changed_is_packed(launch_workspace: Any) -> None:
    one = launch_workspace(load=False)
    sh(one, "echo n > dir/new; rm dir/sub/b; echo x >> edited")
    for path, lower, wanted in (
        (".", "", {"dir": "directory", "dir/new": "file", "dir/sub": "directory", "dir/sub/b": "whiteout",
                      "edited": "file"}),
        ("dir/sub", "dir/sub", {"b": "whiteout"}),
        ("emptied", "emptied", {}),
    ):  # fmt: skip
        _, data, events = talk(one.channel, "overlay_pack", {"path": path})
        items = [item for item in EntryDecoder().feed(data) if isinstance(item, Entry)]
        assert ({item.path: item.type for item in items}, events[0]["lower"]) == (wanted, lower)
    sh(one, "rm -r dir; mkdir -p dir/sub; touch dir/sub/only")
    _, data, events = talk(one.channel, "overlay_pack", {"path": "dir/sub"})
    assert events[0]["lower"] is None
    sh(one, "mv emptied moved; touch moved/y")
    _, data, events = talk(one.channel, "overlay_pack", {"path": "moved"})
    assert events[0]["lower"] == "emptied"
    with pytest.raises(RemoteError) as caught:
        talk(one.channel, "overlay_pack", {"path": "edited"})
    assert caught.value.payload["code"] == "unsupported"


def _secrets_and_files(machine: QemuMachine) -> None:
    talk(machine.channel, "secret_put", {"name": "T", "size": 6}, b"canary")
    assert sh(machine, 'echo "$K"', secret_env={"K": "T"}) == "canary"
    assert sh(machine, "stat -c %a /run/pyro/secrets /run/pyro/secrets/T; env | grep -c canary || true").split() == [
        "700",
        "600",
        "0",
    ]
    begun = time.monotonic()
    talk(machine.channel, "file_write", {"path": "written", "size": 3}, b"abc")
    print(f"file_write {time.monotonic() - begun:.3f} s")
    assert talk(machine.channel, "file_read", {"path": "written"})[1] == b"abc"
    assert talk(machine.channel, "file_search", {"pattern": "^a.c$", "path": "."})[0]["matches"][0]["line"] == 1
    operations = [{"op": "write", "path": "written", "size": 1}, {"op": "delete", "path": "nothing"}]
    stream = machine.channel.open("tree_apply", {"operations": operations})
    stream.send(b"z")
    stream.end()
    with pytest.raises(RemoteError):
        list(stream.messages())
    assert sh(machine, "cat written; ls -a | grep -c pyro || true") == "abc0"
    timings = []
    for _ in range(10):
        begun = time.monotonic()
        talk(machine.channel, "exec", {"argv": ["true"]})
        timings.append(time.monotonic() - begun)
    print(f"exec of true: median {sorted(timings)[5] * 1000:.0f} ms")


def _load(machine: QemuMachine, saved: bytes) -> None:
    for verb, params in (("exec", {"argv": ["true"]}), ("file_list", {"path": "."})):
        with pytest.raises(RemoteError) as caught:
            talk(machine.channel, verb, params)
        assert caught.value.payload["code"] == "conflict"
    with pytest.raises(RemoteError):
        talk(machine.channel, "overlay_load", {}, saved[:-9])
    assert talk(machine.channel, "overlay_load", {}, saved)[0]["entry_count"] > 10
    with pytest.raises(RemoteError):
        talk(machine.channel, "overlay_load", {}, saved)


def test_what_is_ignored_costs_a_count_in_the_overlay_too(launch_workspace: Any) -> None:
    one = launch_workspace(load=False)
    sh(one, "printf '*.log\\nmodules/\\n/dir\\n' > .gitignore; mkdir modules; touch a.log dir/new dir/sub/new.txt")
    sh(one, "cd modules; for n in $(seq 300); do : > $n; done; cd ..; echo x >> dir/a; mkdir .git; touch .git/config")
    told, _, events = talk(one.channel, "changes", {})
    assert {event["path"]: event["file_count"] for event in events} == {".git": 1, ".gitignore": None, "dir/a": None}
    assert told["ignored_count"] == 303
    shown = talk(one.channel, "changes", {"ignored": True, "paths": ["dir"], "exclude": ["sub"]})[2]
    assert {event["path"] for event in shown} == {"dir/a", "dir/new"}


def test_lines_far_into_a_large_file_are_found(launch_workspace: Any) -> None:
    one = launch_workspace(load=False)
    sh(one, "seq 10000000 > big")
    told, output, _ = talk(
        one.channel, "file_lines", {"path": "big", "first": 9_999_999, "count": 5, "max_bytes": 100, "max_line": 50}
    )
    assert output == b"9999999\n10000000\n"
    assert (told["truncated"], told["line_count"], told["sha256"]) == (False, 10_000_000, None)
