"""A workspace's life over SDK, CLI and MCP, in a real guest and on the host: one scenario, one set of refusals."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from short import promised

pytestmark = pytest.mark.guest

WORKSPACE = {
    *("workspace_id", "name", "labels", "environment", "vcpu_count", "mem_mib", "ttl_seconds", "created_at", "state"),
    *("last_activity_at", "expires_at", "network_policy", "network_enabled", "allow_host_compat", "guest_ip"),
    *("execution_mode", "isolation", "workspace_path", "workspace_seed", "secrets", "command_count", "last_command"),
    *("reset_count", "last_reset_at", "service_count", "running_service_count", "metadata"),
}
COMMAND = {
    *("sequence", "command", "cwd", "exit_code", "duration_ms", "stdout", "stderr", "execution_mode", "recorded_at"),
}


@pytest.fixture
def made(anywhere: Any, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """A workspace that starts with one file."""
    seed = tmp_path / "seed"
    seed.mkdir()
    (seed / "file").write_text("one\n")
    options: dict[str, Any] = {"allow_host_compat": True} if anywhere.hosted else {}
    labels = {"a": "1", "b": "2=3"}
    workspace = anywhere.do(
        "create_workspace", environment="debian:12", seed_path=str(seed), name="scene", labels=labels, **options
    )
    yield workspace
    deleted = anywhere.do("delete_workspace", workspace_id=workspace["workspace_id"])
    assert (deleted["workspace_id"], deleted["deleted"]) == (workspace["workspace_id"], True)


def run(anywhere: Any, command: str, **given: Any) -> dict[str, Any]:
    done: dict[str, Any] = anywhere.do(
        "exec_workspace", workspace_id="scene", command=["sh", "-c", command], **{"timeout_seconds": 60, **given}
    )
    return done


def test_a_workspace_lives(anywhere: Any, made: dict[str, Any]) -> None:
    assert promised(made) >= WORKSPACE
    assert re.fullmatch("ws-[0-9a-f]{12}", made["workspace_id"])
    assert (made["state"], made["labels"], made["execution_mode"]) == (
        "started",
        {"a": "1", "b": "2=3"},
        "host_compat" if anywhere.hosted else "guest",
    )
    assert (made["workspace_seed"]["mode"], made["workspace_seed"]["entry_count"]) == ("directory", 1)
    done = run(anywhere, "cat file; echo two > file; echo oops >&2; exit 3")
    assert promised(done) >= {*COMMAND, "workspace_id", "isolation"}
    assert (done["stdout"], done["stderr"], done["exit_code"]) == ("one\n", "oops\n", 3)
    assert (done["sequence"], done["cwd"], done["state"]) == (1, "/workspace", "finished")
    changed = anywhere.do("update_workspace", workspace_id="scene", labels={"c": "4"}, clear_labels=["a"])
    assert changed["labels"] == {"b": "2=3", "c": "4"}
    assert anywhere.do("stop_workspace", workspace_id="scene")["state"] == "stopped"
    assert anywhere.do("start_workspace", workspace_id="scene")["state"] == "started"
    assert run(anywhere, "cat file")["stdout"] == "two\n"
    listed = anywhere.do("list_workspaces")
    assert listed["count"] == len(listed["workspaces"]) == 1
    assert anywhere.do("status_workspace", workspace_id="scene")["last_command"]["sequence"] == 2
    logs = anywhere.do("logs_workspace", workspace_id=made["workspace_id"])
    assert [entry["exit_code"] for entry in logs["entries"]] == [3, 0]
    assert promised(logs["entries"][0]) >= COMMAND


def test_what_is_not_done_goes_on(anywhere: Any, made: dict[str, Any]) -> None:
    left = run(anywhere, "echo one; until [ -e go ]; do sleep 0.1; done; echo two", wait_seconds=1)
    assert (left["state"], left["exit_code"]) == ("running", None)
    run(anywhere, "touch go")
    told, cursor = left["stdout"], left["next_cursor"]
    deadline = time.monotonic() + 100
    while True:
        (entry,) = anywhere.do(
            "logs_workspace", workspace_id="scene", sequence=left["sequence"], cursor=cursor, wait_seconds=10
        )["entries"]
        told, cursor = told + entry["stdout"], entry["next_cursor"]
        if entry["state"] != "running":
            break
        assert time.monotonic() < deadline
    assert (told, entry["exit_code"]) == ("one\ntwo\n", 0)
    left = run(anywhere, "sleep 300", wait_seconds=0)
    (ended,) = anywhere.do("logs_workspace", workspace_id="scene", sequence=left["sequence"], end=True)["entries"]
    assert (ended["state"], ended["signal"]) == ("ended", "SIGKILL")


def test_what_is_too_long_for_one_answer_is_read_on_without_a_gap(anywhere: Any, made: dict[str, Any]) -> None:
    whole = "".join(f"{number}\n" for number in range(1, 5001))
    done = run(anywhere, "seq 1 5000 | tee long.txt; seq 1 2000 >&2")
    told, errors, cursor, more = "", "", "0:0", True
    while more:
        (page,) = anywhere.do("logs_workspace", workspace_id="scene", sequence=done["sequence"], cursor=cursor)[
            "entries"
        ]
        told, errors = told + page["stdout"], errors + page["stderr"]
        cursor, more = page["next_cursor"], page["more"]
    assert (told, errors, page["truncated"]) == (whole, whole[: whole.index("2001\n")], False)
    read, offset = "", 0
    while offset is not None:
        part = anywhere.do("read_workspace_file", workspace_id="scene", path="long.txt", offset=offset)
        read, offset = read + part["content"], part["next_offset"]
    assert read == whole


def test_snapshots_and_reset(anywhere: Any, made: dict[str, Any]) -> None:
    outside = "$HOME" if anywhere.hosted else "/etc"
    run(anywhere, f"echo two > file; mkdir d; echo x > {outside}/marker")
    kept = anywhere.do("create_snapshot", workspace_id="scene", snapshot_name="s")
    assert (kept["snapshot_name"], kept["kind"], kept["deletable"]) == ("s", "named", True)
    reset = anywhere.do("reset_workspace", workspace_id="scene")
    assert (reset["reset_count"], reset["command_count"]) == (1, 0)
    assert reset["workspace_reset"]["snapshot_name"] == "baseline"
    assert run(anywhere, f"cat file; ls {outside}/marker")["stdout"] == "one\n"
    anywhere.do("reset_workspace", workspace_id="scene", snapshot="s")
    assert run(anywhere, "cat file; ls -d d")["stdout"] == "two\nd\n"
    listed = anywhere.do("list_snapshots", workspace_id="scene")
    assert [one["snapshot_name"] for one in listed["snapshots"]] == ["baseline", "s"]
    assert anywhere.do("delete_snapshot", workspace_id="scene", snapshot_name="s")["deleted"] is True


@pytest.mark.parametrize(
    ("verb", "params", "code", "words"),
    [
        ("status_workspace", {"workspace_id": "nobody"}, "not_found", "cannot find the workspace 'nobody'"),
        ("create_workspace", {"environment": "debian:12", "name": "x" * 65}, "invalid_argument", "a name has 1 to 64"),
        ("create_workspace", {"environment": "debian:12", "labels": {"a b": ""}}, "invalid_argument", "a key is"),
        ("create_workspace", {"environment": "debian:12", "seed_path": "/tmp/no/such"}, "not_found", "/tmp/no/such"),
        ("delete_snapshot", {"workspace_id": "w", "snapshot_name": "../x"}, "invalid_argument", "a letter or digit"),
        ("delete_snapshot", {"workspace_id": "w", "snapshot_name": "baseline"}, "invalid_argument", "'baseline'"),
    ],
)
def test_refusals(surface: Any, verb: str, params: dict[str, Any], code: str, words: str) -> None:
    with pytest.raises(Exception, match=re.escape(words)) as caught:
        surface.do(verb, **params)
    assert caught.value.code == code  # type: ignore[attr-defined]
