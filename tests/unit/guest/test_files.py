"""list, read, write, search and apply on a plain directory with the real agent."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyro_mcp.protocol.channel import RemoteError

from .conftest import Client, until
from .workspace_client import refused, sha, talk


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The workspace, with a secret beside it."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("canary")
    root = tmp_path / "root"
    root.mkdir()
    return root


@pytest.fixture
def agent(root: Path) -> Iterator[Client]:
    client = Client(root)
    yield client
    assert client.close() == b""
    assert not list(root.glob(".pyro-*"))
    assert (root.parent / "outside/secret").read_text() == "canary"
    assert os.listdir(root.parent / "outside") == ["secret"]


def listing(agent: Client, **params: Any) -> dict[str, Any]:
    return agent.channel.call("file_list", params, timeout=20)


def names(agent: Client, **params: Any) -> list[str]:
    return [entry["path"].removeprefix("/workspace/") for entry in listing(agent, **params)["entries"]]


def write(agent: Client, path: str, data: bytes, **params: Any) -> dict[str, Any]:
    result: dict[str, Any] = talk(agent.channel, "file_write", {"path": path, "size": len(data), **params}, data)[0]
    return result


def apply(agent: Client, *operations: dict[str, Any], data: bytes = b"") -> dict[str, Any]:
    result: dict[str, Any] = talk(agent.channel, "tree_apply", {"operations": list(operations)}, data)[0]
    return result


# -- list


def test_lists_types_sizes_and_targets_in_order(agent: Client, root: Path) -> None:
    (root / "b/c").mkdir(parents=True)
    (root / "b/c/f").write_text("12345")
    (root / "a").symlink_to("b/c")
    os.mkfifo(root / "pipe")
    found = listing(agent, path="/workspace", recursive=True)
    assert not found["truncated"]
    assert [(e["path"], e["artifact_type"], e["size_bytes"], e["link_target"]) for e in found["entries"]] == [
        ("/workspace/a", "symlink", 0, "b/c"),
        ("/workspace/b", "directory", 0, None),
        ("/workspace/b/c", "directory", 0, None),
        ("/workspace/b/c/f", "file", 5, None),
        ("/workspace/pipe", "other", 0, None),
    ]
    assert names(agent, path=".") == ["a", "b", "pipe"]
    assert names(agent, path="a") == ["b/c/f"]
    assert names(agent, path="b/c/f") == ["b/c/f"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.py", ["src/a.py", "src/deep/b.py", "top.py"]),
        ("src/*.py", ["src/a.py"]),
        ("src/**/*.py", ["src/a.py", "src/deep/b.py"]),
        ("**/*.{py,md}", ["src/a.py", "src/deep/b.py", "src/n.md", "top.py"]),
        ("[!t]*.py", ["src/a.py", "src/deep/b.py"]),
        ("?.md", ["src/n.md"]),
        ("nothing", []),
    ],
)
def test_lists_by_pattern(agent: Client, root: Path, pattern: str, expected: list[str]) -> None:
    (root / "src/deep").mkdir(parents=True)
    for name in ("src/a.py", "src/deep/b.py", "top.py", "src/n.md"):
        (root / name).touch()
    assert names(agent, path=".", recursive=True, pattern=pattern) == expected


def test_a_large_listing_is_bounded_and_says_so(agent: Client, root: Path) -> None:
    for number in range(10_000):
        (root / f"{number:05d}").touch()
    found = listing(agent, path=".", limit=50_000)
    whole = len(found["entries"])
    assert found["truncated"] == (whole < 10_000)
    assert whole > 5000
    cut = listing(agent, path=".", limit=10)
    assert cut["truncated"]
    assert len(cut["entries"]) == 10


def test_odd_names_survive(agent: Client, root: Path) -> None:
    raw = os.fsencode(root) + b"/\xff-rf\n\x1b"
    with open(raw, "wb") as file:
        file.write(b"x")
    (path,) = [entry["path"] for entry in listing(agent, path=".")["entries"]]
    assert os.fsencode(path) == b"/workspace/\xff-rf\n\x1b"
    assert talk(agent.channel, "file_read", {"path": path})[1] == b"x"


# -- hostile paths


@pytest.mark.parametrize(
    "path", ["../outside/secret", "a/../../outside/secret", "/etc/passwd", "a\0b", "", "/workspaces/x", 5, None]
)
@pytest.mark.parametrize("verb", ["file_read", "file_write", "file_list", "tree_pack", "file_search"])
def test_paths_that_lead_out_are_refused(agent: Client, path: Any, verb: str) -> None:
    with refused("invalid_argument"):
        talk(
            agent.channel,
            verb,
            {"path": path, "size": 1, "pattern": "x"} if path is not None else {"path": 1, "size": 1, "pattern": "x"},
            b"x",
        )


@pytest.mark.parametrize("target", ["../outside", "/etc", "..", "sub/../../outside", "/", "loop", "/workspace-evil"])
def test_links_that_lead_out_are_never_followed(agent: Client, root: Path, target: str) -> None:
    (root / "sub").mkdir()
    (root / "link").symlink_to(target)
    if target == "loop":
        (root / "loop").symlink_to("link")
    for verb in ("file_read", "file_write", "tree_pack"):
        with refused("invalid_argument"):
            talk(agent.channel, verb, {"path": "link/secret", "size": 1}, b"x")
    with refused("invalid_argument"):
        talk(agent.channel, "file_read", {"path": "link"})
    assert "link/secret" not in names(agent, path=".", recursive=True)


def test_links_that_stay_inside_are_followed(agent: Client, root: Path) -> None:
    (root / "d/e").mkdir(parents=True)
    (root / "d/f").write_text("found")
    (root / "up").symlink_to("d/e/../f")
    (root / "absolute").symlink_to(f"{root}/d")
    (root / "chain").symlink_to("absolute/f")
    for path in ("up", "absolute/f", "chain"):
        result, output, _ = talk(agent.channel, "file_read", {"path": path})
        assert (output, result["path"]) == (b"found", "/workspace/d/f")
    write(agent, "chain", b"new")
    assert (root / "d/f").read_text() == "new"
    assert (root / "chain").is_symlink()


def test_no_byte_escapes_a_racing_link(agent: Client, root: Path) -> None:
    (root / "real").mkdir()
    (root / "real/secret").write_text("inside")
    over = threading.Event()
    codes: set[str] = set()

    def race() -> None:
        steps: list[Callable[[], object]] = [
            lambda: os.symlink("../outside", root / "d"),
            lambda: os.unlink(root / "d"),
            lambda: os.rename(root / "real", root / "d"),
            lambda: os.rename(root / "d", root / "real"),
            lambda: shutil.rmtree(root / "d"),
        ]
        while not over.is_set():
            for step in steps:
                with contextlib.suppress(OSError):
                    step()

    racer = threading.Thread(target=race)
    racer.start()
    try:
        for _ in range(300):
            for verb in ("file_read", "file_write"):
                try:
                    _, output, _ = talk(agent.channel, verb, {"path": "d/secret", "size": 6}, b"inside")
                    assert output in (b"inside", b"")
                except RemoteError as error:
                    codes.add(error.payload["code"])
    finally:
        over.set()
        racer.join()
    assert codes <= {"not_found", "invalid_argument", "conflict"}


# -- read


def test_reads_a_part_and_says_what_is_left(agent: Client, root: Path) -> None:
    (root / "f").write_bytes("aé".encode() * 1000)
    result, output, _ = talk(agent.channel, "file_read", {"path": "f", "max_bytes": 2})
    assert output == b"a\xc3"
    assert result["truncated"]
    assert not result["binary"]
    assert (result["size_bytes"], result["sha256"]) == (3000, sha("aé".encode() * 1000))


@pytest.mark.parametrize(("content", "binary"), [(b"", False), (b"a\0b", True), (b"\xff\xfe", True), (b"a\xc3", True)])
def test_tells_binary_from_text(agent: Client, root: Path, content: bytes, binary: bool) -> None:
    (root / "f").write_bytes(content)
    assert talk(agent.channel, "file_read", {"path": "f"})[0]["binary"] == binary


def test_a_sparse_giant_costs_nothing(agent: Client, root: Path) -> None:
    (root / "giant").touch()
    os.truncate(root / "giant", 1 << 40)
    begun = time.monotonic()
    result, output, _ = talk(agent.channel, "file_read", {"path": "giant", "max_bytes": 10})
    assert (len(output), result["size_bytes"], result["sha256"]) == (10, 1 << 40, None)
    assert time.monotonic() - begun < 5


def test_reading_what_is_no_file_is_typed(agent: Client, root: Path) -> None:
    os.mkfifo(root / "pipe")
    (root / "d").mkdir()
    (root / "f").touch()
    for path, code in (("pipe", "invalid_argument"), ("d", "invalid_argument"), ("no", "not_found")):
        with refused(code):
            talk(agent.channel, "file_read", {"path": path})
    with refused("invalid_argument"):
        talk(agent.channel, "file_read", {"path": "f/x"})


# -- write


def test_writes_with_parents_and_keeps_the_mode(agent: Client, root: Path) -> None:
    assert write(agent, "a/b/f", b"one") == {
        "path": "/workspace/a/b/f",
        "size_bytes": 3,
        "sha256": sha(b"one"),
        "created": True,
    }
    (root / "a/b/f").chmod(0o755)
    assert not write(agent, "a/b/f", b"two")["created"]
    assert (root / "a/b/f").stat().st_mode & 0o777 == 0o755
    write(agent, "a/b/f", b"", mode=0o600)
    assert (root / "a/b/f").stat().st_mode & 0o777 == 0o600


def test_an_expectation_protects_the_other_writer(agent: Client, root: Path) -> None:
    write(agent, "f", b"one", expected_sha256=None)
    write(agent, "f", b"two", expected_sha256=sha(b"one"))
    for expected in (None, sha(b"one")):
        with refused("conflict"):
            write(agent, "f", b"three", expected_sha256=expected)
    with refused("conflict"):
        write(agent, "g", b"three", expected_sha256=sha(b""))
    assert (root / "f").read_text() == "two"
    assert sorted(os.listdir(root)) == ["f"]


def test_two_writers_with_one_expectation_have_one_winner(agent: Client, root: Path) -> None:
    write(agent, "f", b"")
    outcome: list[str] = []

    def attempt(text: bytes) -> None:
        try:
            write(agent, "f", text, expected_sha256=sha(b""))
            outcome.append("won")
        except RemoteError as error:
            outcome.append(error.payload["code"])

    threads = [threading.Thread(target=attempt, args=(b"%d" % number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcome) == ["conflict"] * 7 + ["won"]


@pytest.mark.parametrize("size", [2, 4])
def test_a_wrong_size_changes_nothing(agent: Client, root: Path, size: int) -> None:
    (root / "f").write_text("old")
    with refused("invalid_argument"):
        talk(agent.channel, "file_write", {"path": "f", "size": size}, b"new")
    assert (root / "f").read_text() == "old"


def test_a_writer_that_cancels_leaves_nothing(agent: Client, root: Path, open_fds: Callable[[], int]) -> None:
    write(agent, "warm", b"")
    before = open_fds()
    stream = agent.channel.open("file_write", {"path": "f", "size": 100})
    stream.send(b"half")
    until(lambda: list(root.glob(".pyro-stage-*/new")))
    stream.cancel()
    with refused("cancelled"):
        list(stream.messages())
    until(lambda: open_fds() == before)
    assert os.listdir(root) == ["warm"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a tmpfs")
def test_a_full_disk_is_typed_and_changes_nothing(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)], check=True)
    try:
        agent = Client(tmp_path)
        write(agent, "f", b"old")
        for verb, params in (
            ("file_write", {"path": "f", "size": 2 << 20}),
            ("tree_apply", {"operations": [{"op": "write", "path": "f", "size": 2 << 20}]}),
        ):
            with refused("disk_full"):
                talk(agent.channel, verb, params, bytes(2 << 20))
        assert (tmp_path / "f").read_bytes() == b"old"
        assert os.listdir(tmp_path) == ["f"]
        assert agent.close() == b""
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


# -- search


def search(agent: Client, pattern: str, **params: Any) -> dict[str, Any]:
    return agent.channel.call("file_search", {"pattern": pattern, "path": ".", **params}, timeout=30)


def test_searches_lines(agent: Client, root: Path) -> None:
    (root / "src").mkdir()
    (root / "src/a.py").write_bytes(b"def f():\r\n    pass\n\ndef g(): pass")
    (root / "b.md").write_text("def h\n" + "x" * 5000 + "needle")
    (root / "bin").write_bytes(b"def\0")
    (root / ".git").mkdir()
    (root / ".git/x").write_text("def git")
    (root / "out").symlink_to("../outside/secret")
    found = search(agent, r"^def (\w)")
    assert [(m["path"], m["line"], m["text"]) for m in found["matches"]] == [
        ("/workspace/b.md", 1, "def h"),
        ("/workspace/src/a.py", 1, "def f():"),
        ("/workspace/src/a.py", 4, "def g(): pass"),
    ]
    assert not found["truncated"]
    assert [m["line"] for m in search(agent, "DEF g", ignore_case=True, glob="*.py")["matches"]] == [4]
    assert [m["text"] for m in search(agent, "git", path=".git")["matches"]] == ["def git"]
    (match,) = search(agent, "needle", max_line=100)["matches"]
    assert "needle" in match["text"]
    assert len(match["text"]) <= 102
    assert not search(agent, "canary")["matches"]
    assert search(agent, "def", limit=1)["truncated"]
    assert [m["line"] for m in search(agent, "pass", path="src/a.py")["matches"]] == [2, 4]
    assert [m["line"] for m in search(agent, "^$", path="src/a.py")["matches"]] == [3]


def test_a_bad_pattern_is_refused(agent: Client) -> None:
    for params in ({"pattern": "("}, {"pattern": "x", "glob": "[z-a]"}, {"pattern": "x", "glob": "*a" * 9}):
        with refused("invalid_argument"):
            agent.channel.call("file_search", {"path": ".", **params})


def test_a_runaway_expression_stops_and_blocks_nobody(agent: Client, root: Path, open_fds: Callable[[], int]) -> None:
    (root / "f").write_text("a" * 40 + "b")
    search(agent, "a")
    before = open_fds()
    stream = agent.channel.open("file_search", {"pattern": "(a+)+$", "path": ".", "timeout_seconds": 1})
    time.sleep(0.3)
    begun = time.monotonic()
    assert agent.exec("true").exit_code == 0
    assert time.monotonic() - begun < 0.5
    result = list(stream.messages())[-1].value  # type: ignore[union-attr]
    assert result["timed_out"]
    assert result["truncated"]
    stream = agent.channel.open("file_search", {"pattern": "(a+)+$", "path": "."})
    time.sleep(0.2)
    stream.cancel()
    list(stream.messages())
    until(lambda: open_fds() == before)
    assert not subprocess.run(["pgrep", "-P", str(agent.process.pid)], capture_output=True, check=False).stdout


# -- apply


def snapshot(root: Path) -> dict[str, tuple[int, bytes]]:
    return {
        path.relative_to(root).as_posix(): (path.lstat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in root.rglob("*")
    }


def test_applies_all_kinds_of_changes(agent: Client, root: Path) -> None:
    (root / "d/e").mkdir(parents=True)
    (root / "d/e/gone").write_text("x")
    (root / "run").write_text("#!")
    (root / "old").write_text("moved")
    result = apply(
        agent,
        {"op": "write", "path": "n/e/w", "size": 3, "expected_sha256": None},
        {"op": "write", "path": "run", "size": 2, "expected_sha256": sha(b"#!")},
        {"op": "delete", "path": "d/e/gone"},
        {"op": "mode", "path": "run", "mode": 0o755},
        {"op": "rename", "path": "old", "to": "m/new", "mode": 0o700},
        data=b"abcde",
    )
    assert [entry["op"] for entry in result["entries"]] == ["write", "write", "delete", "mode", "rename"]
    assert result["entries"][0]["sha256"] == sha(b"abc")
    assert {path: content for path, (_, content) in snapshot(root).items() if content} == {
        "n/e/w": b"abc",
        "run": b"de",
        "m/new": b"moved",
    }
    assert (root / "run").stat().st_mode & 0o777 == 0o755
    assert (root / "m/new").stat().st_mode & 0o777 == 0o700
    assert not (root / "d").exists()


@pytest.mark.parametrize(
    "last",
    [
        {"op": "write", "path": "a", "size": 0, "expected_sha256": "0" * 64},
        {"op": "delete", "path": "missing"},
        {"op": "rename", "path": "b", "to": "x/y"},
        {"op": "write", "path": "link/f", "size": 0},
        {"op": "write", "path": "a/below/file", "size": 0},
        {"op": "delete", "path": "dir"},
        {"op": "write", "path": "dir", "size": 0},
        {"op": "write", "path": "link", "size": 0},
        {"op": "mode", "path": "link", "mode": 0o777},
    ],
)
def test_one_failure_takes_all_back(agent: Client, root: Path, last: dict[str, Any]) -> None:
    (root / "dir").mkdir()
    (root / "dir/inner").write_text("i")
    (root / "link").symlink_to("dir")
    for name in "abc":
        (root / name).write_text(name)
        (root / name).chmod(0o640)
    before = snapshot(root)
    operations: list[dict[str, Any]] = [
        {"op": "write", "path": "a", "size": 3},
        {"op": "write", "path": "x/y", "size": 3},
        {"op": "mode", "path": "a", "mode": 0o777},
        {"op": "delete", "path": "c"},
        {"op": "rename", "path": "dir/inner", "to": "z/inner", "mode": 0o700},
        {"op": "write", "path": "c", "size": 1},
    ]
    with pytest.raises(RemoteError):
        apply(agent, *operations, last, data=b"onetwo3")
    assert snapshot(root) == before


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "explode", "path": "a"},
        {"op": "write", "path": "../a", "size": 0},
        {"op": "write", "path": "/workspace", "size": 0},
        {"op": "write", "path": "a"},
        {"op": "write", "path": "a", "size": 0, "mode": 0o4755},
        {"op": "mode", "path": "a"},
        {"op": "rename", "path": "a"},
        {"op": "delete", "path": "a", "surprise": 1},
        "delete",
    ],
)
def test_malformed_operations_are_refused(agent: Client, operation: Any) -> None:
    with refused("invalid_argument"):
        apply(agent, operation)
