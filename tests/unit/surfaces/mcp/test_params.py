"""What a model gives for a command, and what the operation gets."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from pyro_mcp.errors import InvalidArgument, PyroError
from pyro_mcp.operations.validate import validate
from pyro_mcp.surfaces import catalog
from pyro_mcp.surfaces.mcp.tools import BoundTool, tool_wording
from pyro_mcp.surfaces.wording import SDK

TOOLS = {
    one.tool or "": BoundTool(one, "workspace-full", allow_host_compat=False) for one in catalog.tools("workspace-full")
}
NAMED: dict[str, dict[str, Any]] = {
    "vm_run": {"environment": "debian:12"},
    "vm_exec": {"vm_id": "vm-0123456789ab"},
    "workspace_exec": {"workspace_id": "w"},
    "service_start": {"workspace_id": "w", "service_name": "web"},
}


@pytest.fixture(params=NAMED)
def tool(request: pytest.FixtureRequest) -> BoundTool:
    return TOOLS[request.param]


def params(tool: BoundTool, **given: Any) -> dict[str, Any]:
    """What the operation gets beyond what names the thing, and beyond the tool's own defaults."""
    return {
        name: value for name, value in tool.params(NAMED[tool.name] | given).items() if name not in NAMED[tool.name]
    }


def test_a_command_is_a_line_or_words_and_no_schema_has_both_in_one() -> None:
    having = [name for name, tool in TOOLS.items() if "command" in tool.describe(SDK).input_schema["properties"]]
    assert set(having) == set(NAMED)
    for name in having:
        shown = TOOLS[name].describe(SDK).input_schema["properties"]
        assert shown["command"]["type"] == "string"
        assert (shown["argv"]["type"], shown["argv"]["items"]) == ("array", {"type": "string"})
    readiness = TOOLS["service_start"].describe(SDK).input_schema["properties"]["readiness"]
    assert readiness["properties"]["command"] == {"type": "string"}


@pytest.mark.parametrize(
    ("given", "command"),
    [
        ({"command": "ls | wc -l"}, "ls | wc -l"),
        ({"argv": ["ls", "-la"]}, ["ls", "-la"]),
        ({"command": ["ls", "-la"]}, ["ls", "-la"]),
        ({"command": "ls", "argv": None}, "ls"),
        ({"command": "ls", "argv": []}, "ls"),
        ({"command": "", "argv": ["ls"]}, ["ls"]),
        ({"argv": ["sleep", 5]}, ["sleep", "5"]),
        ({"argv": '["sleep", 5]'}, ["sleep", "5"]),
    ],
    ids=str,
)
def test_what_can_be_read_in_one_way_is_taken(tool: BoundTool, given: dict[str, Any], command: Any) -> None:
    assert params(tool, **given) == {"command": command}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "command: it is missing"),
        ({"command": None}, "command: it is missing"),
        ({"command": "ls", "argv": ["-la"]}, "it takes command or argv, not both"),
        ({"command": ["ls"], "argv": ["ls"]}, "it takes command or argv, not both"),
        ({"argv": "ls -la"}, "argv takes a list of words"),
        ({"argv": "[ -f x ]"}, "argv takes a list of words"),
        ({"argv": ["ls", None]}, "command: expected text at"),
        ({"argv": []}, "command: expected a list of length 1 or more"),
        ({"command": ""}, "command: expected text of length 1 or more"),
        ({"command": "a\0b"}, "it contains a NUL character"),
        ({"command": "x" * 131_072}, "takes 131072 bytes, at most 131071 fit"),
        ({"command": "ls", "env": {"A": "x" * 200_000}}, "env: it takes 200003 bytes, at most 32768 fit"),
        ({"command": "ls", "env": {"A": "a\0b"}}, "env: it contains a NUL character"),
        ({"command": "ls", "env": {"A": None}}, "env: expected text at A, got"),
        ({"command": "ls", "env": {"A": "x", "B": True}}, 'env: expected text at B, such as "true", got'),
        ({"command": "ls", "env": ["A"]}, "env: "),
        ({"command": "ls", "cwd": ""}, "cwd: expected text of length 1 or more"),
        ({"command": "ls", "cwd": "a\0b"}, "cwd: it contains a NUL character"),
    ],
    ids=str,
)
def test_what_cannot_is_refused_with_what_to_do(tool: BoundTool, given: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        params(tool, **given)
    assert words in caught.value.message
    assert caught.value.hint


def test_variables_are_texts_and_numbers_are_written_out(tool: BoundTool) -> None:
    meant = {"command": "env", "cwd": "src", "env": {"PORT": "8080", "A": "1\n2"}}
    assert params(tool, command="env", cwd="src", env={"PORT": 8080, "A": "1\n2"}) == meant
    assert params(tool, command="env", cwd="src", env=["PORT=8080", "A=1\n2"]) == meant


@pytest.mark.parametrize("name", ["vm_run", "vm_exec", "workspace_exec"])
def test_standard_input_is_a_text_of_at_most_a_mebibyte(name: str) -> None:
    tool = TOOLS[name]
    assert tool.describe(SDK).input_schema["properties"]["stdin"]["type"] == "string"
    assert params(tool, command="cat", stdin="é\n") == {"command": "cat", "stdin": "é\n".encode()}
    assert params(tool, command="cat", stdin="") == {"command": "cat", "stdin": b""}
    assert params(tool, command="cat", stdin=None) == {"command": "cat"}
    assert len(params(tool, command="cat", stdin="x" * 1_048_576)["stdin"]) == 1_048_576
    with pytest.raises(InvalidArgument, match="takes 1048577 bytes, at most 1048576 fit"):
        params(tool, command="cat", stdin="x" * 1_048_577)
    for wrong in (True, ["x"], 5):
        with pytest.raises(InvalidArgument, match="stdin: expected text, got"):
            params(tool, command="cat", stdin=wrong)
    with pytest.raises(InvalidArgument, match="stdin: it is no UTF-8 text"):
        params(tool, command="cat", stdin="\udcff")


def test_following_gathers_a_page_unless_something_else_is_asked_for() -> None:
    logs = TOOLS["workspace_logs"]
    assert logs.params({"workspace_id": "w", "sequence": 1})["until"] == "page"
    assert logs.params({"workspace_id": "w", "sequence": 1, "until": "done"})["until"] == "done"
    with pytest.raises(InvalidArgument, match="until: expected one of output, page, done"):
        logs.params({"workspace_id": "w", "sequence": 1, "until": "end"})


WRONG: tuple[Any, ...] = (
    *("a\0b", "line\n", "ABC", "", -1, 1.5, True),
    *({"x": [1]}, [[1]], [{"no": 1}], [{}], [], {}),
)
FORMS = {"argv"}
"""Only part of a parameter, and refused under its name."""


@pytest.mark.parametrize("name", TOOLS)
def test_no_refusal_shows_a_name_that_was_not_put_in(name: str) -> None:
    tool, wording = TOOLS[name], tool_wording(TOOLS)

    def told(check: Callable[[], Any]) -> list[str]:
        try:
            check()
        except PyroError as error:
            return [f"{wording.error(error)} {error.hint}"]
        return []

    for field in tool.fields:
        # Alone, so that each is looked at whatever else a call lacks, and as a call.
        alone = [one for one in (field, *tool.operation.fields) if one.name == field.name][-1:]
        checks = [partial(validate, tool.operation.name, tuple(alone), {field.name: value}) for value in WRONG]
        calls = [partial(tool.params, {field.name: value}) for value in WRONG]
        texts = [text for check in (*checks, *calls) for text in told(check)]
        assert texts, field.name
        assert not [text for text in texts if "<<" in text and field.name not in FORMS], field.name
        assert not [text for call in calls for text in told(call) if "<<" in text], field.name


def test_a_range_is_told_as_the_tool_has_it() -> None:
    with pytest.raises(InvalidArgument, match="expected 200 to 8000, got 100") as caught:
        TOOLS["workspace_diff"].params({"workspace_id": "w", "max_chars": 100})
    assert "200 to 8000" in str(caught.value.hint)
    assert TOOLS["workspace_diff"].params({"workspace_id": "w", "max_chars": 9_000_000})["max_chars"] == 8_000


def test_a_command_that_is_missing_is_asked_for_in_both_forms(tool: BoundTool) -> None:
    with pytest.raises(InvalidArgument, match="command: it is missing") as caught:
        tool.params(NAMED[tool.name])
    assert str(caught.value.hint).startswith("Give one of command and argv.")


def test_a_list_goes_by_the_name_of_an_item_where_that_means_nothing_else() -> None:
    asked = {"workspace_id": "w"}
    for given in ("src", ["src"]):
        assert TOOLS["workspace_diff"].params({**asked, "path": given})["paths"] == ["src"]
    both = TOOLS["workspace_file_read"].params({**asked, "path": "a", "paths": ["b"]})
    assert (both["path"], both["paths"]) == ("a", ["b"])
    for name, given in (("workspace_diff", {"path": "a", "paths": ["b"]}), ("workspace_diff", {"ignore": True})):
        with pytest.raises(InvalidArgument, match="it has no parameter"):
            TOOLS[name].params({**asked, **given})


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        (
            "workspace_file_edit",
            {"path": "a", "edits": [{"old_string": "a", "new_string": "b"}, {"old_string": "a", "newString": "b"}]},
            "edits: it has no key 'newString', only old_string, new_string, replace_all",
        ),
        (
            "service_start",
            {"service_name": "s", "command": "x", "readiness": {"port": "1"}},
            "readiness: it has no key 'port', only file, tcp, http, command",
        ),
    ],
)
def test_a_key_that_would_be_passed_over_is_refused(name: str, given: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        TOOLS[name].params({"workspace_id": "w", **given})
