"""JSON with comments is changed in place: the entry's own lines, and nothing else."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyro_mcp.errors import Unsupported
from pyro_mcp.hosts.jsonfile import JsonFormat, blank

MCP = JsonFormat("mcp")
ENTRY = {"type": "local", "command": ["/bin/pyro", "mcp", "serve"], "enabled": True}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "// only a comment\n",
        "{}",
        "{ }\n",
        "{\n}\n",
        '{\n  // mine\n  "theme": "dark" // why\n}\n',
        '{\n\t"theme": "dark", /* a */\n}\n',
        '{"mcp": {}}',
        '{"mcp": {"other": {"command": ["x"]}}}',
        '{\n  "mcp": {\n    // before\n    "other": {"command": ["x"]}, // after\n    // last\n  },\n}\n',
        '{\n  "mcp": {\n    "other": {\n      "command": ["x"]\n    }\n    // "pyro": {}\n  }\n}',
        '{"a": "// no comment, \\" and /* none */, ]", "mcp": {"b": 1}}',
    ],
)
def test_an_entry_comes_and_goes_and_everything_else_stays(text: str) -> None:
    before = MCP.load(text)
    put = MCP.put(text, "pyro", ENTRY)
    assert MCP.load(put) == {**before, "mcp": {**before.get("mcp", {}), "pyro": ENTRY}}
    assert comments(put) == comments(text)
    assert MCP.put(put, "pyro", ENTRY) == put
    gone = MCP.drop(put, "pyro")
    assert MCP.load(gone) == {**before, "mcp": before.get("mcp", {})}
    assert comments(gone) == comments(text)
    if "mcp" in before:
        assert re.sub(r"\s", "", gone) == re.sub(r"\s", "", text)


def comments(text: str) -> list[str]:
    tokens = re.findall(r'"(?:[^"\\\n]|\\.)*"|//[^\n]*|/\*.*?\*/', text, re.DOTALL)
    return [token for token in tokens if not token.startswith('"')]


def test_only_what_differs_of_an_entry_is_written() -> None:
    text = (
        '{\n  "mcp": {\n    "pyro": {\n      // ours\n      "enabled": false, // off\n      "mine": 1\n    }\n  }\n}\n'
    )
    put = MCP.put(text, "pyro", {"enabled": True, "mine": 1})
    assert put == text.replace("false", "true")
    put = MCP.put(text, "pyro", {"enabled": False, "new": [1]})
    assert "// ours" in put
    assert "// off" in put
    assert MCP.load(put)["mcp"]["pyro"] == {"enabled": False, "new": [1]}


def test_true_is_not_one() -> None:
    assert MCP.load(MCP.put('{"mcp": {"pyro": {"enabled": 1}}}', "pyro", {"enabled": True}))["mcp"]["pyro"] == {
        "enabled": True
    }


def test_the_files_indentation_is_kept() -> None:
    assert '\n\t\t"pyro": {\n\t\t\t"type"' in MCP.put('{\n\t"theme": 1\n}\n', "pyro", ENTRY)


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "nonsense", '{"a": 1 /* open', '{"mcp": {}, "mcp": {}}', '{"mcp": 3}', '{"mcp": {"pyro": }}', "{:}"],
)
def test_what_is_no_table_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        MCP.put(text, "pyro", ENTRY)


def test_to_the_letter_means_no_comments() -> None:
    with pytest.raises(ValueError):
        JsonFormat("mcpServers", comments=False).entries('{"mcpServers": {} // no\n}')


def test_an_edit_that_would_change_more_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(JsonFormat, "edit", lambda self, text, name, entry: '{"mcp": {}}')
    with pytest.raises(Unsupported, match="unusual form") as caught:
        MCP.put('{"theme": 1}', "pyro", ENTRY)
    assert "not touched" in str(caught.value.hint)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
SPACES = st.sampled_from(["", " ", "\n", "\n  ", " // c ,}\n", '/* ] " */', "\t"])


@st.composite
def documents(draw: st.DrawFn) -> str:
    """An object, written with comments, spaces and trailing commas anywhere."""
    return written(draw, draw(st.dictionaries(st.sampled_from(["mcp", "a", "//", ",}"]), objects(), max_size=3)))


def objects() -> st.SearchStrategy[Any]:
    return st.dictionaries(st.sampled_from(["x", "y", "pyro", '"', "\\"]), VALUES, max_size=3)


def written(draw: st.DrawFn, value: Any) -> str:
    def gap() -> str:
        return draw(SPACES)

    if isinstance(value, dict | list):
        if isinstance(value, dict):
            parts = [f"{gap()}{json.dumps(key)}{gap()}:{gap()}{written(draw, one)}" for key, one in value.items()]
        else:
            parts = [f"{gap()}{written(draw, one)}" for one in value]
        last = f"{gap()}," if parts and draw(st.booleans()) else ""
        inner = f"{gap()},".join(parts) + last + gap()
        return f"{{{inner}}}" if isinstance(value, dict) else f"[{inner}]"
    return json.dumps(value)


@given(documents())
def test_any_document_keeps_all_but_the_entry(text: str) -> None:
    before = json.loads(blank(text))
    put = MCP.put(text, "pyro", ENTRY)
    assert json.loads(blank(put)) == {**before, "mcp": {**before.get("mcp", {}), "pyro": ENTRY}}
    if before.get("mcp", {}).get("pyro") is None:
        assert comments(put) == comments(text)
    gone = MCP.drop(put, "pyro")
    others = {key: value for key, value in before.get("mcp", {}).items() if key != "pyro"}
    assert json.loads(blank(gone)) == {**before, "mcp": others}
