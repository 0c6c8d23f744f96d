"""Short answers: whatever a verb answers, what a model gets is a view of it that holds all that is news."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from pyro_mcp.operations.encode import encode
from pyro_mcp.operations.operation import Operation
from pyro_mcp.surfaces import catalog
from pyro_mcp.surfaces.mcp.short import short
from pyro_mcp.surfaces.mcp.tools import BoundTool
from pyro_mcp.surfaces.wording import SDK

TOOLS = {one.tool: one for one in catalog.tools("workspace-full") if one.tool}
ALARMS = {
    *("truncated", "timed_out", "more", "encoding_lossy", "signal", "reason", "hint", "problem", "stop_reason"),
    *("skipped", "skipped_count", "can_run", "masked", "masked_count", "missed_bytes", "network_refusals"),
    *("stdout_dropped_bytes", "stderr_dropped_bytes", "changes_unknown", "already_closed", "failures", "binary"),
    *("next_offset", "stdout", "stderr", "content", "output", "matches", "entries"),
}
"""What is never left out where it is there."""

st.register_type_strategy(datetime, st.datetimes(timezones=st.just(UTC)))


def anything(kind: Any) -> st.SearchStrategy[Any]:
    """Any result of the type `kind`, with any value in every field."""
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return st.deferred(lambda: st.builds(kind, **{one.name: anything(hints[one.name]) for one in fields(kind)}))
    if get_origin(kind) is list:
        return st.lists(anything(get_args(kind)[0]), max_size=2)
    if get_origin(kind) is dict:
        return st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2)
    if type(None) in get_args(kind):
        return st.none() | anything(next(one for one in get_args(kind) if one is not type(None)))
    return st.from_type(kind)


def assert_is_view(shown: Any, whole: Any) -> None:
    """Every value in `shown` stands in `whole` at the same place."""
    if isinstance(shown, dict):
        for name, part in shown.items():
            assert_is_view(part, whole[name])
    elif isinstance(shown, list):
        assert len(shown) == len(whole)
        for part, of in zip(shown, whole, strict=True):
            assert_is_view(part, of)
    else:
        assert shown == whole or whole.startswith(shown.rstrip("Z")), "only a time loses its fractions"


@pytest.mark.parametrize("name", TOOLS)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_an_answer_is_a_view_that_holds_all_that_is_news(name: str, data: st.DataObject) -> None:
    operation = TOOLS[name]
    whole = encode(data.draw(anything(operation.result_type)))
    shown = short(operation, whole, {})
    assert_is_view(shown, whole)
    assert [field for field in ALARMS & set(whole) if whole[field] and field not in shown] == []
    if whole.get("exit_code") is not None:
        assert shown["exit_code"] == whole["exit_code"]
    for field in {"changed", "deleted", "closed"} & set(whole):
        assert shown[field] is whole[field]
    if whole.get("execution_mode") == "host_compat":
        assert shown["execution_mode"] == "host_compat"
    if whole.get("isolation") == "none":
        assert shown["isolation"] == "none"


@pytest.mark.parametrize("name", TOOLS)
@settings(max_examples=4, deadline=None)
@given(data=st.data())
def test_text_and_structure_are_equal_and_fit_the_schema(name: str, data: st.DataObject) -> None:
    operation = TOOLS[name]
    tool = BoundTool(operation, "workspace-full", allow_host_compat=False)
    result = tool.answer(encode(data.draw(anything(operation.result_type))), {})
    assert json.loads(result.content[0].text) == result.structured_content  # type: ignore[union-attr]
    Draft202012Validator(tool.describe(SDK).output_schema).validate(result.structured_content)


COMMAND: dict[str, Any] = {
    "sequence": 7,
    "command": "make",
    "cwd": "/workspace",
    "state": "finished",
    "exit_code": 0,
    "duration_ms": 9,
    "execution_mode": "guest",
    "isolation": "emulated",
    "recorded_at": "2026-11-28T10:00:00.123456Z",
    "signal": None,
    "timed_out": False,
    "reason": None,
    "next_cursor": "3:0",
    "more": False,
    "truncated": False,
    "stdout_dropped_bytes": 0,
    "stderr_dropped_bytes": 0,
    "encoding_lossy": False,
    "stdout": "ok\n",
    "stderr": "",
    "network_refusals": [],
    "workspace_id": "ws-0123456789ab",
}


def exec_answer(**changed: Any) -> dict[str, Any]:
    asked = {"workspace_id": "ws-0123456789ab", "command": "make"}
    return short(TOOLS["workspace_exec"], COMMAND | changed, asked)


def test_a_command_that_ran_says_what_came_of_it() -> None:
    assert exec_answer() == {"sequence": 7, "exit_code": 0, "duration_ms": 9, "stdout": "ok\n"}
    assert exec_answer(state="running", exit_code=None)["next_cursor"] == "3:0"
    assert exec_answer(more=True)["next_cursor"] == "3:0"
    lost = exec_answer(state="lost", exit_code=None, reason="its machine is gone")
    assert lost["state"] == "lost"
    assert lost["reason"] == "its machine is gone"
    assert exec_answer(cwd="/workspace/src")["cwd"] == "/workspace/src"
    hosted = exec_answer(execution_mode="host_compat", isolation="none")
    assert hosted["execution_mode"] == "host_compat"
    assert hosted["isolation"] == "none"


def test_what_a_person_wrote_is_told_as_it_stands() -> None:
    told_back = short(TOOLS["workspace_status"], {"labels": {"a": "", "b": "0"}, "name": "finished"}, {})
    assert told_back == {"labels": {"a": "", "b": "0"}, "name": "finished"}


def test_a_row_repeats_its_path_and_an_answer_does_not() -> None:
    whole = {"path": "/workspace/src", "count": 1, "entries": [{"path": "/workspace/src", "artifact_type": "file"}]}
    shown = short(TOOLS["workspace_file_list"], whole, {"path": "src"})
    assert shown == {"count": 1, "entries": [{"path": "/workspace/src", "artifact_type": "file"}]}


def test_a_name_is_answered_with_the_id() -> None:
    assert short(TOOLS["workspace_status"], {"workspace_id": "ws-0123456789ab"}, {"workspace_id": "mine"}) == {
        "workspace_id": "ws-0123456789ab"
    }


def test_no_network_is_told_and_an_empty_list_of_hosts_too() -> None:
    create: Operation[Any, Any] = TOOLS["workspace_create"]
    assert short(create, {"network_policy": "off", "allow_hosts": None}, {}) == {"network_policy": "off"}
    assert short(create, {"network_policy": "off"}, {"network_policy": "off"}) == {}
    closed = {"network_policy": "egress", "allow_hosts": []}
    assert short(TOOLS["workspace_status"], closed, {}) == closed


def test_what_the_type_does_not_know_is_passed_on() -> None:
    assert exec_answer(notices=["look"])["notices"] == ["look"]


def test_a_machine_that_stayed_is_named() -> None:
    whole = {"exit_code": 0, "vm_id": "vm-0123456789ab", "cleanup": {"deleted": True, "reason": "one-shot"}}
    assert short(TOOLS["vm_run"], whole, {}) == {"exit_code": 0}
    whole["cleanup"] = {"deleted": False, "reason": "it did not answer"}
    assert short(TOOLS["vm_run"], whole, {}) == whole
