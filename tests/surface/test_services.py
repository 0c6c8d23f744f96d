"""Services over SDK, CLI and MCP, in a real guest and on the host: one scenario, one set of refusals."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

pytestmark = pytest.mark.guest

SERVICE = {
    *("service_name", "state", "command", "cwd", "started_at", "ready_at", "ended_at", "exit_code", "pid"),
    *("readiness", "stop_reason", "published_ports", "execution_mode", "isolation"),
}
LOOP = "echo begun; echo warned >&2; echo $TOKEN; touch ready; while :; do sleep 1; done"


@pytest.fixture
def made(anywhere: Any) -> Iterator[None]:
    """A workspace with a secret."""
    options: dict[str, Any] = {"allow_host_compat": True} if anywhere.hosted else {}
    anywhere.do(
        "create_workspace", environment="debian:12", name="scene", secrets={"TOKEN": "hunter2hunter2"}, **options
    )
    yield
    anywhere.do("delete_workspace", workspace_id="scene")


def start(anywhere: Any, name: str, command: str, **given: Any) -> dict[str, Any]:
    done: dict[str, Any] = anywhere.do(
        "start_service", workspace_id="scene", service_name=name, command=["sh", "-c", command], **given
    )
    return done


def test_a_service_lives(anywhere: Any, made: None) -> None:
    begun = start(anywhere, "loop", LOOP, readiness={"file": "ready"}, secret_env=["TOKEN"], ready_interval_ms=100)
    assert set(begun) >= SERVICE
    assert (begun["state"], begun["service_name"], begun["exit_code"]) == ("ready", "loop", None)
    assert (begun["readiness"], begun["cwd"], begun["published_ports"]) == ({"file": "ready"}, "/workspace", [])
    assert begun["execution_mode"] == ("host_compat" if anywhere.hosted else "guest")
    bad = start(anywhere, "bad", "echo no config >&2; exit 3", readiness={"tcp": "127.0.0.1:1"})
    assert (bad["state"], bad["exit_code"], bad["stderr"]) == ("failed", 3, "no config\n")
    with pytest.raises(Exception, match="is ready already") as caught:
        start(anywhere, "loop", LOOP)
    assert caught.value.code == "conflict"  # type: ignore[attr-defined]
    listed = anywhere.do("list_services", workspace_id="scene")
    assert [one["service_name"] for one in listed["services"]] == ["loop", "bad"]
    assert set(listed["services"][0]) >= SERVICE
    said = anywhere.do("logs_service", workspace_id="scene", service_name="loop")
    assert (said["stdout"], said["stderr"]) == ("begun\n[secret]\n", "warned\n")
    assert (said["tail_lines"], said["truncated"]) == (200, False)
    last = anywhere.do("logs_service", workspace_id="scene", service_name="loop", tail_lines=1)
    assert (last["stdout"], last["truncated"]) == ("[secret]\n", True)
    assert anywhere.do("logs_service", workspace_id="scene", service_name="loop", all=True)["tail_lines"] is None
    shown = anywhere.do("status_workspace", workspace_id="scene")
    assert (shown["service_count"], shown["running_service_count"]) == (2, 1)
    told = anywhere.do("summarize_workspace", workspace_id="scene")["services"]
    assert [one["service_name"] for one in told["now"]] == ["loop"]
    assert [one["service_name"] for one in told["before"]] == ["bad"]
    ended = anywhere.do("stop_service", workspace_id="scene", service_name="loop")
    assert (ended["state"], ended["stop_reason"]) == ("stopped", "it was stopped")
    assert anywhere.do("status_service", workspace_id="scene", service_name="loop")["state"] == "stopped"


def test_the_workspaces_stop_and_reset(anywhere: Any, made: None) -> None:
    start(anywhere, "loop", LOOP)
    anywhere.do("stop_workspace", workspace_id="scene")
    anywhere.do("start_workspace", workspace_id="scene")
    found = anywhere.do("status_service", workspace_id="scene", service_name="loop")
    assert (found["state"], found["stop_reason"]) == ("stopped", "the workspace was stopped")
    assert anywhere.do("logs_service", workspace_id="scene", service_name="loop")["stdout"].startswith("begun\n")
    anywhere.do("reset_workspace", workspace_id="scene")
    assert anywhere.do("list_services", workspace_id="scene")["count"] == 0


@pytest.mark.parametrize(
    ("params", "code", "words"),
    [
        ({"service_name": "../x", "command": ["true"]}, "invalid_argument", "a letter or digit"),
        ({"service_name": "x", "command": ["a\0b"]}, "invalid_argument", "NUL"),
        ({"service_name": "x", "command": ["true"], "readiness": {"tcp": "127.0.0.1:0"}}, "invalid_argument", "65535"),
        (
            {"service_name": "x", "command": ["true"], "readiness": {"tcp": "203.0.113.1:80"}},
            "invalid_argument",
            "dials",
        ),
        (
            {"service_name": "x", "command": ["true"], "readiness": {"http": "https://x/"}},
            "invalid_argument",
            "http://",
        ),
        ({"service_name": "x", "command": ["true"], "published_ports": ["65536"]}, "invalid_argument", "65535"),
        ({"service_name": "x", "command": ["true"], "published_ports": ["0"]}, "invalid_argument", "65535"),
        ({"service_name": "x", "command": ["true"], "published_ports": ["80"]}, "conflict", "network policy"),
        ({"service_name": "x", "command": ["true"], "cwd": "there"}, "invalid_argument", "an absolute path"),
    ],
)
def test_refusals(anywhere: Any, made: None, params: dict[str, Any], code: str, words: str) -> None:
    if "\0" in "".join(params["command"]) and type(anywhere).__name__ == "CliSurface":
        pytest.skip("no command line can hold a NUL")
    with pytest.raises(Exception, match=re.escape(words)) as caught:
        anywhere.do("start_service", workspace_id="scene", **params)
    assert caught.value.code == code  # type: ignore[attr-defined]
    assert anywhere.do("list_services", workspace_id="scene")["count"] == 0
