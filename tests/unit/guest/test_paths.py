"""No path and no link leads out of the workspace, whoever races."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyro_mcp.protocol.channel import RemoteError

from .conftest import Client
from .workspace_client import names, refused, talk, write


@pytest.fixture
def agent(guarded: Client) -> Client:
    return guarded


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
    done = threading.Event()
    codes: set[str] = set()

    def race() -> None:
        steps: list[Callable[[], object]] = [
            lambda: os.symlink("../outside", root / "d"),
            lambda: os.unlink(root / "d"),
            lambda: os.rename(root / "real", root / "d"),
            lambda: os.rename(root / "d", root / "real"),
            lambda: shutil.rmtree(root / "d"),
        ]
        while not done.is_set():
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
        done.set()
        racer.join()
    assert codes <= {"not_found", "invalid_argument", "conflict"}


@pytest.mark.parametrize(
    ("verb", "path", "message"),
    [
        ("file_read", "/etc/passwd", "cannot read /etc/passwd: it is outside /workspace"),
        ("file_write", "a/../b", "cannot write a/../b: it contains '..'"),
        ("file_list", ".pyro-stage-x/y", "cannot list .pyro-stage-x/y: the name is reserved"),
        ("file_search", "x" * 256, f"cannot search {'x' * 256}: it has more than"),
        ("tree_pack", "link/x", "cannot export /workspace/link/x: it leads out of /workspace through a symbolic link"),
    ],
)
def test_a_refusal_says_what_cannot_be_done_and_why(
    agent: Client, root: Path, verb: str, path: str, message: str
) -> None:
    (root / "link").symlink_to("../outside")
    with refused("invalid_argument", message):
        talk(agent.channel, verb, {"path": path, "size": 1, "pattern": "x"}, b"x")


@pytest.mark.parametrize(
    ("verb", "path", "code", "remedy"),
    [
        ("file_read", "nope", "not_found", "List the directory"),
        ("file_read", "d", "invalid_argument", "Give the path of a file"),
        ("file_write", "d", "invalid_argument", "Give the path of a file"),
        ("file_write", "f/x", "invalid_argument", "list the directories above"),
        ("file_read", "pipe", "invalid_argument", "with a command"),
        ("tree_pack", "pipe", "invalid_argument", "Export the directory"),
        ("tree_pack", "nope", "not_found", "List the directory"),
        ("file_list", "x" * 256, "invalid_argument", "Choose a shorter path"),
        ("file_read", ".pyro-stage-x", "invalid_argument", "Choose another name"),
    ],
)
def test_a_refusal_says_what_to_do_instead(
    agent: Client, root: Path, verb: str, path: str, code: str, remedy: str
) -> None:
    (root / "d").mkdir()
    (root / "f").write_text("x")
    os.mkfifo(root / "pipe")
    with pytest.raises(RemoteError) as caught:
        talk(agent.channel, verb, {"path": path, "size": 1}, b"x")
    assert caught.value.payload["code"] == code
    assert remedy in caught.value.payload["hint"]
