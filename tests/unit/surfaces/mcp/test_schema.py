"""Every input schema of every profile, against what the model APIs document that they take.

Hosts pass an MCP tool's schema on as it is, and one schema that an API refuses makes all tools of the request fail.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from pyro_mcp.errors import InvalidArgument
from pyro_mcp.operations.fields import UNBOUNDED, Field
from pyro_mcp.surfaces import catalog
from pyro_mcp.surfaces.mcp.tools import BoundTool, tool_wording

BOUND = {
    profile: {
        one.tool or "": BoundTool(one, profile, allow_host_compat=True, roots=()) for one in catalog.tools(profile)
    }
    for profile in catalog.PROFILES
}
TOOLS = [
    pytest.param(tool.describe(tool_wording(tools)), id=f"{profile}-{name}")
    for profile, tools in BOUND.items()
    for name, tool in tools.items()
]
TYPES = {"string", "integer", "number", "boolean", "array", "object"}


def shapes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every schema in `node`, that itself first."""
    yield node
    for part in node.get("properties", {}).values():
        yield from shapes(part)
    if "items" in node:
        yield from shapes(node["items"])


def depth(node: dict[str, Any]) -> int:
    inner = [*node.get("properties", {}).values(), *([node["items"]] if "items" in node else [])]
    return 1 + max(map(depth, inner), default=0)


@pytest.mark.parametrize("tool", TOOLS)
def test_gemini(tool: Any) -> None:
    """`FunctionDeclaration` and `Schema`, https://ai.google.dev/api/caching#Schema and
    https://cloud.google.com/vertex-ai/docs/reference/rest/v1beta1/FunctionDeclaration: a name of up to 64 characters,
    one `type` in each schema, `enum` only beside type string, `items` in each array, nothing that is not a field of
    `Schema`. Seen beyond that page: an OBJECT with no properties is refused ("should be non-empty for OBJECT type",
    vercel/ai#3371) but at the top, where hosts leave it out; and `anyOf` stands alone or is refused (gemini-cli#4400).
    """
    assert re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}", tool.name)
    for number, node in enumerate(shapes(tool.input_schema)):
        assert set(node) <= {"type", "description", "enum", "items", "properties", "required"}
        assert node["type"] in TYPES
        assert ("items" in node) == (node["type"] == "array")
        if "enum" in node:
            assert node["type"] == "string"
            assert node["enum"]
            assert all(isinstance(word, str) and word for word in node["enum"])
        if node["type"] == "object":
            assert node["properties"] or number == 0
            assert set(node.get("required", ())) <= set(node["properties"])
            assert node.get("required") != []
            assert all(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", name) for name in node["properties"])


@pytest.mark.parametrize("tool", TOOLS)
def test_openai(tool: Any) -> None:
    """https://platform.openai.com/docs/api-reference/chat/create (tools: a name of up to 64 letters, digits, `_` and
    `-`) and, for strict mode, https://platform.openai.com/docs/guides/structured-outputs#supported-schemas: a root
    object without `anyOf`, at most 10 levels, 5000 properties, 1000 words in enums; no composition. What strict mode
    adds, `additionalProperties: false` and all properties required or null, clients add; they can where each object
    lists its properties, so no mapping with free keys may occur. Azure takes descriptions up to 1024 characters.
    """
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", tool.name)
    assert len(tool.description) <= 1024
    assert tool.input_schema["type"] == "object"
    nodes = list(shapes(tool.input_schema))
    assert depth(tool.input_schema) <= 10
    assert sum(len(node.get("properties", ())) for node in nodes) <= 5000
    assert sum(len(node.get("enum", ())) for node in nodes) <= 1000
    for node in nodes:
        assert not set(node) & {"allOf", "oneOf", "anyOf", "not", "if", "then", "else", "$ref", "additionalProperties"}
        assert "properties" in node or node["type"] != "object"


@pytest.mark.parametrize("tool", TOOLS)
def test_anthropic(tool: Any) -> None:
    """https://platform.claude.com/docs/en/agents-and-tools/tool-use/define-tools (a name of up to 64 characters; Claude
    Code puts `mcp__pyro__` before it) and, for strict tools,
    https://platform.claude.com/docs/en/build-with-claude/structured-outputs#json-schema-limitations: no recursion, no
    limits of numbers, lengths or counts, no `additionalProperties` but false. Property names match
    `[a-zA-Z0-9_.-]{1,64}`, and the root has no `anyOf`, `oneOf` or `allOf` (anomalyco/opencode#38616).
    """
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", f"mcp__pyro__{tool.name}")
    for node in shapes(tool.input_schema):
        limits = {"minimum", "maximum", "multipleOf", "minLength", "maxLength", "minItems", "maxItems", "pattern"}
        assert not set(node) & (limits | {"anyOf", "oneOf", "allOf", "$ref", "$defs", "format"})
        for name in node.get("properties", ()):
            assert re.fullmatch(r"[a-zA-Z0-9_.-]{1,64}", name)


@pytest.mark.parametrize("tool", TOOLS)
def test_every_parameter_is_described_and_of_one_type(tool: Any) -> None:
    for name, node in tool.input_schema["properties"].items():
        assert len(node["description"]) > 5, name
        assert isinstance(node["type"], str), name
    assert "<<" not in str(tool)
    assert tool.output_schema == {"type": "object"}


NUMBERS = [
    pytest.param(tool, field, id=f"{profile}-{name}-{field.name}")
    for profile, tools in BOUND.items()
    for name, tool in tools.items()
    for field in tool.fields
    if field.type in (int, float) and field.param.le is not None and field.param.le < UNBOUNDED
]


@pytest.mark.parametrize(("tool", "field"), NUMBERS)
def test_the_declared_maximum_is_the_real_one(tool: BoundTool, field: Field) -> None:
    """It is told in the description, taken, and nothing above it goes any further."""
    most = field.param.le
    assert most is not None
    told = tool.describe(tool_wording({tool.name: tool})).input_schema["properties"][field.name]["description"]
    assert str(most) in told
    needed = {
        name: EXAMPLES[name] for name in (one.name for one in tool.fields if one.required or one.name == "command")
    }
    assert tool.params({**needed, field.name: most})[field.name] == most
    if field.param.tool_max is not None:
        assert tool.params({**needed, field.name: most * 1000})[field.name] == most
        return
    with pytest.raises(InvalidArgument, match=str(most)):
        tool.params({**needed, field.name: most + 1})


EXAMPLES = {
    "environment": "debian:12",
    "command": "true",
    "workspace_id": "w",
    "vm_id": "vm-0123456789ab",
    "shell_id": "sh-0123456789ab",
    "service_name": "web",
    "path": "a",
    "text": "",
    "pattern": "x",
    "patch": "x",
    "input": "x",
    "snapshot_name": "one",
    "output": "/nowhere/x",
    "source_path": "/nowhere/x",
}
