"""What a caller plainly meant is taken, and nothing else."""

from __future__ import annotations

import json
from typing import Any, Literal, TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyro_mcp.api.exec import exec_workspace
from pyro_mcp.api.service import start_service
from pyro_mcp.api.workspace import create_workspace, update_workspace
from pyro_mcp.errors import InvalidArgument
from pyro_mcp.operations.coerce import coerce


class Edit(TypedDict, total=False):
    old: str
    lines: int


@pytest.mark.parametrize(
    ("kind", "value", "meant"),
    [
        (int, "5", 5),
        (int, "-5", -5),
        (int, 5.0, 5),
        (float, "0.5", 0.5),
        (bool, "true", True),
        (bool, "False", False),
        (list[str], "a", ["a"]),
        (list[str], "", [""]),
        (list[str], '["a", "b"]', ["a", "b"]),
        (list[str], "[", ["["]),
        (list[str], ("a",), ["a"]),
        (list[int], "5", [5]),
        (list[int], ["5", 6.0], [5, 6]),
        (list[str | int], 8000, [8000]),
        (list[str | int], "8000", ["8000"]),
        (list[str] | dict[str, str], "NAME", ["NAME"]),
        (list[str] | dict[str, str], "NAME=OTHER", ["NAME=OTHER"]),
        (list[str] | dict[str, str], '{"NAME": "OTHER"}', {"NAME": "OTHER"}),
        (dict[str, str], '{"a": "b"}', {"a": "b"}),
        (dict[str, str], ["a=b", "c=d=e", "f="], {"a": "b", "c": "d=e", "f": ""}),
        (dict[str, str], "a=b", {"a": "b"}),
        (list[Edit], '{"old": "x", "lines": "3"}', [{"old": "x", "lines": 3}]),
        (list[Edit], {"old": "x", "lines": 3.0}, [{"old": "x", "lines": 3}]),
        (str | list[str], '["a"]', '["a"]'),
    ],
)
def test_what_can_be_read_in_one_way_is_taken(kind: Any, value: Any, meant: Any) -> None:
    made = coerce(value, kind)
    assert made == meant
    assert json.dumps(made) == json.dumps(meant), "also the types are the same"


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (str, 5),
        (str, True),
        (str, ["a"]),
        (str, "00713"),
        (int, "00713"),
        (int, " 3 0"),
        (int, " 30"),
        (int, "3_0"),
        (int, "+3"),
        (int, "3e1"),
        (int, "٣"),
        (int, "9" * 5000),
        (int, 5.5),
        (int, float("nan")),
        (int, float("inf")),
        (int, True),
        (float, "nan"),
        (float, "1e3"),
        (bool, 1),
        (bool, "yes"),
        (bool, "true "),
        (list[str], 5),
        (list[str], None),
        (list[str], {"a": "b"}),
        (dict[str, str], "a"),
        (dict[str, str], []),
        (dict[str, str], ["a=b", "a=c"]),
        (dict[str, str], ["=b"]),
        (dict[str, str], ["a=b", "c"]),
        (dict[str, str], '{"a": "b", "a": "c"}'),
        (dict[str, str], "{" * 100_000),
        (dict[str, int], {"a": "b"}),
        (Literal["off", "egress"], "OFF"),
    ],
)
def test_nothing_else_becomes_something_else(kind: Any, value: Any) -> None:
    assert coerce(value, kind) is value


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(ANY, st.sampled_from([int, float, bool, str, list[str], list[int], dict[str, str], list[str] | dict[str, str]]))
def test_whatever_comes_is_coerced_once_and_for_all(value: Any, kind: Any) -> None:
    made = coerce(value, kind)
    assert repr(coerce(made, kind)) == repr(made)


def test_a_verb_takes_what_is_meant_and_sends_what_it_is() -> None:
    sent, _ = create_workspace.request(
        (),
        {
            "environment": "debian:12",
            "vcpu_count": "2",
            "mem_mib": 2048.0,
            "host_ca": "true",
            "labels": ["task=7"],
            "allow_hosts": "example.com",
            "secret_files": '{"KEY": "/tmp/key"}',
        },
    )
    assert sent == {
        "environment": "debian:12",
        "vcpu_count": 2,
        "mem_mib": 2048,
        "host_ca": True,
        "labels": {"task": "7"},
        "allow_hosts": ["example.com"],
        "secret_files": {"KEY": "/tmp/key"},
    }
    started = start_service.validate(
        {"workspace_id": "w", "service_name": "web", "command": "x", "published_ports": 80, "readiness": "tcp=::1:80"}
    )
    assert started["published_ports"] == [80]
    assert started["readiness"] == {"tcp": "::1:80"}


@pytest.mark.parametrize(
    ("given_params", "words"),
    [
        ({"timeout_seconds": " 3 0"}, "timeout_seconds: expected a whole number, got ' 3 0'"),
        ({"timeout_seconds": "0"}, "timeout_seconds: expected 1 to 86400, got 0"),
        ({"secret_env": 5}, "secret_env: expected a mapping of names to values or a list, got 5"),
    ],
)
def test_a_refusal_says_what_was_expected(given_params: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        exec_workspace.validate({"workspace_id": "w", "command": "true", **given_params})
    assert words in caught.value.message


def test_a_mapping_is_asked_for_in_words() -> None:
    with pytest.raises(InvalidArgument, match="labels: expected a mapping of names to values, got 'urgent'"):
        update_workspace.validate({"workspace_id": "w", "labels": "urgent"})


def test_a_secret_in_any_form_is_shown_in_no_refusal() -> None:
    for form in (["KEY=hunter2", "KEY=hunter2"], '{"KEY": ["hunter2"]}', "hunter2"):
        with pytest.raises(InvalidArgument) as caught:
            create_workspace.validate({"environment": "debian:12", "secrets": form})
        assert "hunter2" not in caught.value.message
