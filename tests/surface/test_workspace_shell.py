"""Shells over SDK, CLI and MCP, in a real guest and on the host: one scenario, one set of refusals."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from short import promised

pytestmark = pytest.mark.guest

SHELL = {"shell_id", "cwd", "cols", "rows", "state", "started_at", "ended_at", "exit_code"}
READ = {*SHELL, "cursor", "next_cursor", "output", "truncated", "plain", "wait_for_idle_ms"}
TOKEN = "token-canary-a1b2c3d4"


@pytest.fixture
def made(anywhere: Any) -> Iterator[str]:
    """The id of a workspace with a secret."""
    options: dict[str, Any] = {"allow_host_compat": True} if anywhere.hosted else {}
    workspace = anywhere.do(
        "create_workspace", environment="debian:12", name="shells", secrets={"TOKEN": TOKEN}, **options
    )
    yield workspace["workspace_id"]
    anywhere.do("delete_workspace", workspace_id="shells")


def until(anywhere: Any, shell_id: str, pattern: str, **params: Any) -> dict[str, Any]:
    """Read from a cursor on until what was said matches."""
    deadline = time.monotonic() + 60
    while True:
        read: dict[str, Any] = anywhere.do(
            "read_shell", workspace_id="shells", shell_id=shell_id, wait_for_idle_ms=300, **params
        )
        if re.search(pattern, read["output"]):
            return read
        assert time.monotonic() < deadline, read["output"]


def test_a_shell_lives(anywhere: Any, made: str) -> None:
    opened = anywhere.do("open_shell", workspace_id="shells", cols=100, rows=20, secret_env=["TOKEN=KEY"])
    assert promised(opened) >= SHELL
    assert (opened["state"], opened["cols"], opened["rows"]) == ("running", 100, 20)
    shell_id = opened["shell_id"]

    def do(verb: str, **params: Any) -> dict[str, Any]:
        answer: dict[str, Any] = anywhere.do(verb, workspace_id="shells", shell_id=shell_id, **params)
        return answer

    wrote = do("write_shell", input="cd /tmp; stty size; echo key $KEY")
    assert (wrote["input_length"], wrote["append_newline"]) == (34, True)
    read = until(anywhere, shell_id, r"20 100\r\nkey \[secret\]", cursor=0)
    assert promised(read) >= READ
    assert TOKEN not in json.dumps(read)
    assert (read["cursor"], read["missed_bytes"], read["more"], read["plain"]) == (0, 0, False, False)
    do("write_shell", input=r"pwd; printf '1%%\r2%%\r\033[31m日本\033[0m\n'")
    plain = until(anywhere, shell_id, "日本\n", cursor=read["next_cursor"], plain=True)["output"].splitlines()
    assert plain[1:3] == ["/tmp", "日本"]
    do("write_shell", input="sleep 300; echo code $?", append_newline=False)
    do("write_shell", input="")
    deadline, said = time.monotonic() + 60, ""
    while "\ncode 143" not in said:
        # Bash itself, which is in front before, takes no notice.
        assert time.monotonic() < deadline, said
        assert do("signal_shell", signal_name="TERM")["signal_name"] == "TERM"
        said = do("read_shell", cursor=0, wait_for_idle_ms=300)["output"]
    assert [one["shell_id"] for one in anywhere.do("list_shells", workspace_id="shells")["shells"]] == [shell_id]
    do("write_shell", input="exit 9")
    while do("read_shell", cursor=0)["state"] == "running":
        assert time.monotonic() < deadline
    with pytest.raises(Exception, match="it has exited with code 9") as caught:
        do("write_shell", input="x")
    assert caught.value.code == "conflict"  # type: ignore[attr-defined]
    closed = do("close_shell")
    assert (closed["closed"], closed["already_closed"], closed["exit_code"]) == (True, False, 9)
    assert do("close_shell")["already_closed"] is True


@pytest.mark.parametrize(
    ("verb", "params", "code", "words"),
    [
        ("read_shell", {}, "not_found", "none of that id"),
        ("write_shell", {"input": "x"}, "not_found", "none of that id"),
        ("signal_shell", {"signal_name": "NOPE"}, "invalid_argument", "no signal 'NOPE'"),
        ("open_shell", {"cols": 100_000}, "invalid_argument", "expected 1 to 1000"),
        ("open_shell", {"secret_env": ["NONE"]}, "not_found", "cannot use the secret 'NONE'"),
    ],
)
def test_refusals(anywhere: Any, made: str, verb: str, params: dict[str, Any], code: str, words: str) -> None:
    named = {} if verb == "open_shell" else {"shell_id": "sh-0123456789ab"}
    with pytest.raises(Exception, match=re.escape(words)) as caught:
        anywhere.do(verb, workspace_id="shells", **named, **params)
    assert caught.value.code == code  # type: ignore[attr-defined]


def test_a_shell_outlives_the_node(environ: dict[str, str], surface: Any) -> None:
    surface.do("create_workspace", environment="debian:12", name="outlives")
    try:
        shell_id = surface.do("open_shell", workspace_id="outlives")["shell_id"]
        given = {"workspace_id": "outlives", "shell_id": shell_id}
        surface.do("write_shell", **given, input="A=kept; sleep 2; echo wh''ile away")
        status = subprocess.run(
            [sys.executable, "-m", "pyro_mcp", "node", "status", "--json"], env=environ, capture_output=True, check=True
        )
        os.kill(json.loads(status.stdout)["pid"], signal.SIGKILL)
        deadline, said = time.monotonic() + 60, ""
        while "while away" not in said:
            assert time.monotonic() < deadline
            try:
                said = surface.do("read_shell", **given, wait_for_idle_ms=1000)["output"]
            except Exception as error:
                # The call that found the node dead.
                if getattr(error, "code", "") != "node_unavailable":
                    raise
        surface.do("write_shell", **given, input="echo $A")
        while not re.search(r"[\r\n]kept", said):
            assert time.monotonic() < deadline
            said = surface.do("read_shell", **given, wait_for_idle_ms=500)["output"]
    finally:
        surface.do("delete_workspace", workspace_id="outlives")
