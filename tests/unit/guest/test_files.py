"""list, read and write on a plain directory with the real agent."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyro_mcp.protocol.channel import RemoteError

from .conftest import Client, until
from .workspace_client import listing, names, refused, sha, talk, write


@pytest.fixture
def agent(guarded: Client) -> Client:
    return guarded


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


def test_what_is_in_git_is_listed_last(agent: Client, root: Path) -> None:
    for name in (".git/hooks/post-checkout", "src/.git/config", "src/.github/ci.yml"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    told = ["src", "src/.github", "src/.github/ci.yml", "src/.git", "src/.git/config"]
    assert names(agent, path=".", recursive=True) == [*told, ".git", ".git/hooks", ".git/hooks/post-checkout"]
    assert names(agent, path=".") == [".git", "src"]
    assert names(agent, path="src/.git", recursive=True) == ["src/.git/config"]
    assert names(agent, path=".git", recursive=True) == [".git/hooks", ".git/hooks/post-checkout"]


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
    until(lambda: list(root.glob(".pyro-stage-*")))
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


def lines(agent: Client, path: str, **params: int) -> tuple[dict[str, Any], bytes]:
    asked = {"first": 1, "count": 10, "max_bytes": 1000, "max_line": 100, **params}
    return talk(agent.channel, "file_lines", {"path": path, **asked})[:2]


def test_lines_are_found_by_their_number(agent: Client, root: Path) -> None:
    content = b"".join(b"line %d\n" % number for number in range(1, 200_001))
    (root / "f").write_bytes(content)
    for first in (1, 2, 100_000, 199_999):
        result, output = lines(agent, "f", first=first, count=2)
        assert output == b"line %d\nline %d\n" % (first, first + 1)
        assert result["offset"] == content.index(output)
        assert result["next_offset"] == result["offset"] + len(output)
        assert (result["next_line"], result["line_count"], result["sha256"]) == (first + 2, 200_000, sha(content))
        assert result["truncated"] == (first != 199_999)
    result, output = lines(agent, "f", first=200_001)
    assert (output, result["line_count"], result["truncated"]) == (b"", 200_000, False)


@pytest.mark.parametrize(
    ("content", "count", "output"),
    [(b"", 0, b""), (b"\n", 1, b"\n"), (b"a", 1, b"a"), (b"a\n\nb", 3, b"a\n\nb"), (b"a\r\nb\r\n", 2, b"a\r\nb\r\n")],
)
def test_the_last_line_may_have_no_end(agent: Client, root: Path, content: bytes, count: int, output: bytes) -> None:
    (root / "f").write_bytes(content)
    result, sent = lines(agent, "f")
    assert (sent, result["line_count"], result["truncated"], result["size_bytes"]) == (
        output,
        count,
        False,
        len(content),
    )


def test_a_long_line_is_cut_and_the_next_ones_are_reached(agent: Client, root: Path) -> None:
    (root / "f").write_bytes(b"a\n" + b"x" * 1_000_000 + b"\nb\n" + b"y" * 101)
    result, output = lines(agent, "f")
    assert output == b"a\n" + b"x" * 100 + b"\nb\n" + b"y" * 100
    assert (result["cut"], result["truncated"]) == ([[2, 999_900], [4, 1]], False)
    result, output = lines(agent, "f", max_bytes=50)
    assert (len(output), result["next_line"], result["next_offset"], result["truncated"]) == (50, 2, 50, True)


def test_of_a_giant_only_the_part_is_read(agent: Client, root: Path) -> None:
    with open(root / "giant", "wb") as file:
        file.write(b"one\ntwo\n")
        file.truncate(1 << 40)
    result, output = lines(agent, "giant", first=2, count=1)
    assert (output, result["sha256"], result["line_count"], result["size_bytes"]) == (b"two\n", None, None, 1 << 40)
    assert result["truncated"]


def test_a_long_search_for_a_line_can_be_cancelled(agent: Client, root: Path) -> None:
    with open(root / "giant", "wb") as file:
        file.truncate(1 << 43)
    stream = agent.channel.open("file_lines", {"path": "giant", "first": 2, "count": 1, "max_bytes": 9, "max_line": 9})
    stream.cancel()
    with pytest.raises(RemoteError) as caught:
        list(stream.messages())
    assert caught.value.payload["code"] == "cancelled"


def test_lines_of_what_is_no_text_file_are_refused_or_told(agent: Client, root: Path) -> None:
    (root / "f").write_bytes(b"a\nb\0\nc\n")
    assert lines(agent, "f", first=3, count=1)[0]["binary"]
    with refused("invalid_argument", "directory"):
        lines(agent, ".")
    with refused("not_found"):
        lines(agent, "nope")
    with refused("invalid_argument", "first"):
        lines(agent, "f", first=0)
