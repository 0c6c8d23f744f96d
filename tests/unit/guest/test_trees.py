"""pack, unpack, changes and secrets on plain directories with the real agent."""

from __future__ import annotations

import json
import os
import socket
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyro_mcp.protocol.channel import Channel
from pyro_mcp.protocol.entries import Entry
from pyro_mcp.protocol.pipe import Pipe

from .conftest import START, Client, until
from .workspace_client import decoded, encoded, refused, split, talk


class Agent(Client):
    """A hosted agent with a baseline."""

    def __init__(self, root: Path, baseline: Path) -> None:
        ours, theirs = socket.socketpair()
        source = str(Path(__file__).parents[3] / "src")
        number = str(theirs.fileno())
        options = ["--fd", number, "--root", str(root), "--baseline", str(baseline)]
        self.root = root
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", START, source, *options],
            pass_fds=[theirs.fileno()],
            start_new_session=True,
            stderr=subprocess.PIPE,
        )
        theirs.close()
        self.channel = Channel(Pipe(ours.detach()), initiator=True, hello={"role": "node"})
        self.hello = self.channel.start(20)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("root", "base", "outside"):
        (tmp_path / name).mkdir()
    return tmp_path / "root"


@pytest.fixture
def base(root: Path) -> Path:
    return root.parent / "base"


@pytest.fixture
def agent(root: Path, base: Path) -> Iterator[Agent]:
    client = Agent(root, base)
    yield client
    assert client.close() == b""
    assert not list(root.glob(".pyro-*"))
    assert os.listdir(root.parent / "outside") == []


def pack(agent: Agent, path: str = ".") -> tuple[Any, bytes, list[Any]]:
    return talk(agent.channel, "tree_pack", {"path": path})


def unpack(agent: Agent, data: bytes, dest: str = ".", **params: Any) -> dict[str, Any]:
    result: dict[str, Any] = talk(agent.channel, "tree_unpack", {"dest": dest, **params}, data)[0]
    return result


def changes(agent: Agent, **params: Any) -> tuple[dict[str, Any], dict[str, tuple[str, bytes | None, bytes | None]]]:
    result, data, events = talk(agent.channel, "changes", params)
    return result, split(data, events)


def fill(root: Path) -> None:
    (root / "empty/nested").mkdir(parents=True)
    (root / "run").write_text("#!/bin/sh")
    (root / "run").chmod(0o755)
    (root / "twin").hardlink_to(root / "run")
    (root / "out").symlink_to("/etc/passwd")
    with open(os.fsencode(root) + b"/n\xff\xe9", "wb") as file:
        file.write(b"odd")
    (root / "sparse").touch()
    os.truncate(root / "sparse", 1 << 40)
    with open(root / "sparse", "r+b") as file:
        file.seek(1 << 39)
        file.write(b"middle")
    (root / "empty").chmod(0o500)
    os.utime(root / "run", ns=(1, 123_456_789))


def test_a_tree_survives_the_round_trip(agent: Agent, root: Path) -> None:
    fill(root)
    (root / "big").write_bytes(os.urandom(3 << 20))
    begun = time.monotonic()
    result, data, events = pack(agent)
    assert time.monotonic() - begun < 10
    assert len(data) < 5 << 20
    assert events[0]["artifact_type"] == "directory"
    assert result["entry_count"] == len(decoded(data)) == 8
    assert result["skipped_count"] == result["changed_count"] == 0
    assert unpack(agent, data, "copy/of/it")["entry_count"] == 8
    copy = root / "copy/of/it"
    assert (copy / "run").stat().st_mode & 0o7777 == 0o755
    assert (copy / "run").stat().st_mtime_ns == 123_456_789
    assert (copy / "run").stat().st_ino == (copy / "twin").stat().st_ino
    assert os.readlink(copy / "out") == "/etc/passwd"
    assert (copy / "empty").stat().st_mode & 0o7777 == 0o500
    assert (copy / "empty/nested").is_dir()
    with open(os.fsencode(copy) + b"/n\xff\xe9", "rb") as file:
        assert file.read() == b"odd"
    assert (copy / "big").read_bytes() == (root / "big").read_bytes()
    status = (copy / "sparse").stat()
    assert (status.st_size, status.st_blocks < 100) == (1 << 40, True)
    with open(copy / "sparse", "rb") as file:
        file.seek((1 << 39) - 1)
        assert file.read(8) == b"\0middle\0"


def test_packs_one_file_and_says_what_it_leaves_out(agent: Agent, root: Path) -> None:
    (root / "d").mkdir()
    (root / "d/f").write_text("x")
    os.mkfifo(root / "d/pipe")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(root / "d/s"))
    listener.close()
    _, data, events = pack(agent, "d/f")
    assert [(path, content) for path, (_, content) in decoded(data).items()] == [("f", b"x")]
    assert events[0]["artifact_type"] == "file"
    result, data, _ = pack(agent, "d")
    assert list(decoded(data)) == ["f"]
    assert {note["path"]: note["reason"] for note in result["skipped"]} == {"pipe": "a FIFO", "s": "a socket"}
    with refused("invalid_argument"):
        pack(agent, "d/pipe")
    with refused("not_found"):
        pack(agent, "none")


def test_levels_beyond_the_format_are_told(agent: Agent, root: Path) -> None:
    here = os.open(root, os.O_RDONLY)
    for _ in range(1000):
        os.mkdir("d", dir_fd=here)
        deeper = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(here)
    result, data, _ = pack(agent)
    assert result["skipped_count"] == 1
    assert len(decoded(data)) == 256
    assert changes(agent)[0]["skipped_count"] >= 1
    assert agent.channel.call("file_list", {"path": ".", "recursive": True}, timeout=20)["entries"]
    subprocess.run(["rm", "-r", str(root / "d")], check=True)  # Too deep for pytest's own cleaning.


def test_ten_thousand_entries(agent: Agent, root: Path) -> None:
    tree = [(Entry(f"d{n:03d}", "directory", mode=0o755), b"") for n in range(100)]
    tree += [(Entry(f"d{n % 100:03d}/{n}", "file", mode=0o644, size=4), b"%04d" % (n % 10_000)) for n in range(10_000)]
    assert unpack(agent, encoded(*tree))["entry_count"] == 10_100
    result, _, _ = pack(agent)
    assert result["entry_count"] == 10_100
    assert result["bytes_written"] == 40_000
    assert changes(agent)[0]["added"] == 10_000


# -- hostile sequences


FILE = (Entry("f", "file", mode=0o644, size=1), b"x")


def raw(header: dict[str, Any], data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("!I", len(text)) + text + data


@pytest.mark.parametrize(
    "sequence",
    [
        b"",
        encoded(FILE)[:-1],
        encoded(FILE) + b"x",
        raw({"path": "../x", "type": "file"}),
        raw({"path": "/etc/x", "type": "file"}),
        encoded(FILE, FILE),
        encoded((Entry("d/f", "file"), b"")),
        encoded((Entry("l", "symlink", target="../outside"), b""), (Entry("l/f", "file"), b"")),
        encoded((Entry("l", "symlink", target="../outside"), b""), (Entry("l", "directory"), b"")),
        encoded((Entry("l", "symlink", target="../outside"), b""), (Entry("h", "hardlink", target="l"), b"")),
        encoded((Entry("h", "hardlink", target="kept"), b"")),
        encoded(FILE, (Entry("f/g", "file"), b"")),
        encoded((Entry("w", "whiteout"), b"")),
        encoded((Entry("d", "directory"), b""), (Entry("d", "opaque"), b"")),
        encoded((Entry("d", "directory"), b""), (Entry("d", "redirect", target="/kept"), b"")),
        encoded(FILE, (Entry("kept", "directory"), b"")),
        encoded(FILE, (Entry("dir", "file"), b"")),
        encoded(FILE, (Entry("dir", "symlink", target="x"), b"")),
    ],
)
def test_a_bad_sequence_is_refused_as_a_whole(agent: Agent, root: Path, sequence: bytes) -> None:
    (root / "kept").write_text("kept")
    (root / "dir").mkdir()
    code = "conflict" if b'"kept","type":"directory"' in sequence or b'"dir"' in sequence else "invalid_argument"
    with refused(code):
        unpack(agent, sequence)
    assert sorted(os.listdir(root)) == ["dir", "kept"]
    assert (root / "kept").read_text() == "kept"


def test_unpacking_merges_and_replaces_only_when_allowed(agent: Agent, root: Path) -> None:
    (root / "d").mkdir()
    (root / "d/kept").write_text("kept")
    (root / "d/f").write_text("old")
    (root / "link").symlink_to("../outside")
    data = encoded((Entry("d", "directory", mode=0o755), b""), (Entry("d/f", "file", mode=0o644, size=3), b"new"))
    with refused("conflict"):
        unpack(agent, data, replace=False)
    assert (root / "d/f").read_text() == "old"
    unpack(agent, data)
    assert {path.name: path.read_text() for path in (root / "d").iterdir()} == {"kept": "kept", "f": "new"}
    with refused("invalid_argument"):
        unpack(agent, data, "link")
    with refused("invalid_argument"):
        unpack(agent, data, "d/f")
    unpack(agent, encoded((Entry("link", "file", mode=0o644), b"")))
    assert not (root / "link").is_symlink()


def test_what_is_pushed_anew_is_newer_and_what_is_equal_is_left_alone(agent: Agent) -> None:
    old = 1_000_000_000 * 10**9
    for name in ("equal", "mode", "changed", "ahead", "same size"):
        (agent.root / name).write_text(name)
        os.utime(agent.root / name, ns=(old, old))
    (agent.root / "link").symlink_to("equal")
    os.utime(agent.root / "link", ns=(old, old), follow_symlinks=False)
    before = {name: (agent.root / name).lstat() for name in os.listdir(agent.root)}
    begun = time.time_ns()
    future = begun + 3600 * 10**9
    pushed = {
        "equal": (b"equal", old - 1),
        "mode": (b"mode", old),
        "changed": (b"altered", old - 1),
        "same size": (b"SAME SIZE", old),
        "ahead": (b"other", future),
        "new": (b"new", old),
    }
    files = [
        (Entry(name, "file", 0o600 if name == "mode" else 0o644, mtime, len(data)), data)
        for name, (data, mtime) in pushed.items()
    ]
    unpack(agent, encoded(*files, (Entry("link", "symlink", mtime_ns=7, target="equal"), b"")))
    after = {name: (agent.root / name).lstat() for name in os.listdir(agent.root)}
    for name in ("equal", "mode", "link"):
        assert (after[name].st_ino, after[name].st_mtime_ns) == (before[name].st_ino, old), name
    assert stat.S_IMODE(after["mode"].st_mode) == 0o600
    for name in ("changed", "same size"):
        assert begun <= after[name].st_mtime_ns <= time.time_ns(), name
        assert (agent.root / name).read_bytes() == pushed[name][0]
    assert (after["ahead"].st_mtime_ns, after["new"].st_mtime_ns) == (future, old)


def test_attributes_arrive_with_an_equal_file_too(agent: Agent) -> None:
    file = agent.root / "f"
    file.write_text("same")
    os.setxattr(file, "user.there", b"1")
    unpack(agent, encoded((Entry("f", "file", mode=0o644, size=4, xattrs=(("user.new", b"2"),)), b"same")))
    assert os.getxattr(file, "user.new") == b"2"
    kept = file.stat()
    unpack(agent, encoded((Entry("f", "file", mode=0o644, size=4, xattrs=(("user.new", b"2"),)), b"same")))
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (kept.st_ino, kept.st_mtime_ns)


def test_cancelled_packing_and_unpacking_leave_nothing(agent: Agent, root: Path, open_fds: Callable[[], int]) -> None:
    agent.channel.call("file_list", {"path": "."}, timeout=5)
    before = open_fds()
    stream = agent.channel.open("tree_unpack", {"dest": "."})
    stream.send(encoded(FILE)[:-5])
    until(lambda: list(root.glob(".pyro-stage-*/new/f")))
    stream.cancel()
    with refused("cancelled"):
        list(stream.messages())
    assert os.listdir(root) == []
    (root / "big").write_bytes(bytes(4 << 20))
    stream = agent.channel.open("tree_pack", {"path": "."})
    time.sleep(0.2)
    stream.cancel()
    with refused("cancelled"):
        list(stream.messages())
    until(lambda: open_fds() == before)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a tmpfs")
def test_a_full_disk_leaves_the_tree_as_it_was(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=50", "tmpfs", str(tmp_path)], check=True)
    try:
        (tmp_path / "f").write_text("old")
        agent = Agent(tmp_path, Path("/usr/share/empty-none"))
        large = encoded(FILE, (Entry("g", "file", size=2 << 20), bytes(2 << 20)))
        many = encoded(*[(Entry(str(n), "file"), b"") for n in range(100)])
        for data in (large, many):
            with refused("disk_full"):
                unpack(agent, data)
            assert os.listdir(tmp_path) == ["f"]
            assert (tmp_path / "f").read_text() == "old"
        assert agent.close() == b""
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


# -- changes


def test_tells_every_kind_of_change(agent: Agent, root: Path, base: Path) -> None:
    for tree in (root, base):
        for name in ("same", "edited", "gone", "moded", "becomes_dir", "binary"):
            (tree / name).write_text(name)
        (tree / "dir/sub").mkdir(parents=True)
        (tree / "dir/sub/x").write_text("x")
        (tree / "becomes_link").mkdir()
        (tree / "becomes_link/y").write_text("y")
        (tree / "link").symlink_to("a")
    assert changes(agent) == (changes(agent)[0], {})
    (root / "edited").write_text("new")
    (root / "gone").unlink()
    (root / "moded").chmod(0o755)
    (root / "becomes_dir").unlink()
    (root / "becomes_dir").mkdir()
    (root / "becomes_dir/z").write_text("z")
    (root / "binary").write_bytes(b"\0")
    subprocess.run(["rm", "-r", str(root / "dir"), str(root / "becomes_link")], check=True)
    (root / "becomes_link").symlink_to("same")
    (root / "link").unlink()
    (root / "link").symlink_to("b")
    (root / "hollow").mkdir()
    (root / "new").mkdir()
    (root / "new/f").write_text("f")
    result, found = changes(agent)
    assert found == {
        "becomes_dir": ("type_changed", b"becomes_dir", b""),
        "becomes_dir/z": ("added", b"", b"z"),
        "becomes_link": ("type_changed", None, None),
        "becomes_link/y": ("deleted", b"y", b""),
        "binary": ("modified", None, None),
        "dir/sub/x": ("deleted", b"x", b""),
        "edited": ("modified", b"edited", b"new"),
        "gone": ("deleted", b"gone", b""),
        "hollow": ("added", None, None),
        "link": ("modified", None, None),
        "moded": ("modified", b"moded", b"moded"),
        "new/f": ("added", b"", b"f"),
    }
    assert [result[name] for name in ("total", "added", "modified", "deleted", "type_changed")] == [12, 3, 4, 3, 2]
    events = {event["path"]: event for event in talk(agent.channel, "changes", {})[2]}
    assert (events["moded"]["old"]["mode"], events["moded"]["new"]["mode"]) == (0o644, 0o755)
    assert (events["link"]["old"]["target"], events["link"]["new"]["target"]) == ("a", "b")


def test_changes_are_bounded(agent: Agent, root: Path) -> None:
    for number in range(20):
        (root / str(number)).write_text("x" * 100)
    result, found = changes(agent, limit=5, total_limit=250)
    assert (result["total"], result["truncated"], len(found)) == (20, True, 5)
    assert sum(new is not None for _, _, new in found.values()) == 2
    assert all(new is None for _, _, new in changes(agent, text_limit=99)[1].values())


# -- secrets and the working directory


def test_a_secret_reaches_the_one_command_that_asks(agent: Agent, root: Path) -> None:
    assert talk(agent.channel, "secret_put", {"name": "TOKEN", "size": 6}, b"canary")[0] == {"name": "TOKEN"}
    told = agent.exec("sh", "-c", 'printf %s "$KEY"', secret_env={"KEY": "TOKEN"})
    assert told.stdout == b"canary"
    assert b"canary" not in agent.exec("env").stdout
    with refused("not_found"):
        agent.exec("true", secret_env={"KEY": "OTHER"})
    for bad in ({"1KEY": "TOKEN"}, {"KEY": "../TOKEN"}, ["KEY"], {"K=V": "TOKEN"}):
        with refused("invalid_argument"):
            agent.exec("true", secret_env=bad)
    for params, value in (
        ({"name": "a/b", "size": 1}, b"x"),
        ({"name": "A", "size": 1}, b"\0"),
        ({"name": "A", "size": 0}, b""),
    ):
        with refused("invalid_argument"):
            talk(agent.channel, "secret_put", params, value)
    assert not any(
        b"canary" in path.read_bytes() for path in root.parent.rglob("*") if stat.S_ISREG(path.lstat().st_mode)
    )


def test_workspace_paths_serve_as_working_directories(agent: Agent, root: Path) -> None:
    (root / "sub").mkdir()
    assert agent.exec("pwd").stdout.decode().strip() == str(root)
    assert agent.exec("pwd", cwd="/workspace/sub").stdout.decode().strip() == str(root / "sub")
