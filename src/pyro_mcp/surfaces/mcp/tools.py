"""Tools: an operation as a chat host sees it: schema, annotations, and an answer short enough to be kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyro_mcp.errors import InvalidArgument, PyroError
from pyro_mcp.model.count import count_of
from pyro_mcp.node.verbs import every_operation
from pyro_mcp.operations.coerce import coerce
from pyro_mcp.operations.fields import Field
from pyro_mcp.operations.operation import Operation
from pyro_mcp.operations.wording import Wording, command_line
from pyro_mcp.surfaces import catalog
from pyro_mcp.surfaces.mcp.defaults import ServerDefaults, checkout_of
from pyro_mcp.surfaces.mcp.fit import fit
from pyro_mcp.surfaces.mcp.params import renamed, requested
from pyro_mcp.surfaces.mcp.paths import require_inside
from pyro_mcp.surfaces.mcp.schema import OUTPUT_SCHEMA, input_schema
from pyro_mcp.surfaces.mcp.short import short
from pyro_mcp.surfaces.wording import as_argument

if TYPE_CHECKING:
    from mcp.types import CallToolResult, Tool

STREAM_CHARS = 8_000
ANSWER_CHARS = 10_000
"""Hosts cut or refuse long answers (the tightest at about 12,000 characters), so we cut first, and say where."""

ENTRY_CHARS = 200
"""What each of many entries may at least show."""

COMMAND_CHARS = 400
"""How much of a command's own text is shown."""

_STREAMS = ("stderr", "stdout")


class BoundTool:
    """One operation as one server shows it: with the parameters that this profile and these permissions allow."""

    def __init__(
        self,
        operation: Operation[Any, Any],
        profile: str,
        *,
        allow_host_compat: bool,
        roots: tuple[Path, ...] = (),
        defaults: ServerDefaults | None = None,
    ) -> None:
        self.operation = operation
        self.defaults = defaults or ServerDefaults()
        self._roots = roots
        self.name = operation.tool or operation.name
        self.fields = self.defaults.shown(
            catalog.tool_fields(
                operation, profile, allow_host_compat=allow_host_compat, project=bool(self.defaults.source)
            )
        )

    def describe(self, wording: Wording) -> Tool:
        """The tool for the MCP library."""
        from mcp.types import Tool

        return Tool.model_validate(self.listed(wording))

    def listed(self, wording: Wording) -> dict[str, Any]:
        """The tool as `tools/list` writes it, in the server's words; the keys are in the order in which the MCP library
        would write them."""
        effects = self.operation.effects
        reaches_out = effects.open_world or any(field.param.opens_network for field in self.fields)
        annotations = {
            "destructiveHint": effects.destructive,
            # False is what its absence says.
            **({"idempotentHint": True} if effects.idempotent else {}),
            "openWorldHint": reaches_out,
            "readOnlyHint": effects.read_only,
        }
        return {
            **({"_meta": {"anthropic/alwaysLoad": True}} if self.name == "vm_run" else {}),
            "annotations": annotations,
            "description": wording.text(self.operation.doc),
            "inputSchema": input_schema(self.fields, wording),
            "name": self.name,
            "outputSchema": OUTPUT_SCHEMA,
            "title": self.operation.title,
        }

    def shows(self, field: Field) -> bool:
        return any(one.name == field.name for one in self.fields)

    def answer(self, payload: Mapping[str, Any], params: Mapping[str, Any]) -> CallToolResult:
        """The encoded result of a call with `params`, as a model gets it."""
        return answer(payload, partial(short, self.operation, arguments=params))

    def params(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments as parameters. Raises `InvalidArgument`, also for a parameter this server does not show."""
        known = {field.name: field for field in self.fields}
        arguments = renamed(self.fields, arguments)
        for name in arguments:
            if name not in known:
                raise InvalidArgument(
                    f"cannot call {self.name}: it has no parameter {str(name)[:64]!r}",
                    hint=f"It takes: {', '.join(known) or 'nothing'}.",
                )
        given = {
            name: value
            for name, value in arguments.items()
            if value is not None or (known[name].required and not known[name].optional)
        }
        given = self.defaults.complete(self.operation, given)
        for field in self.fields:
            asked = coerce(given.get(field.name, field.default), field.type)
            if field.param.tool_max is not None and isinstance(asked, int):
                given[field.name] = min(asked, field.param.tool_max)
        local = checkout_of(requested(self.operation, self.fields, given))
        require_inside(self.name, self.fields, local, self._roots)
        return local


def tool_wording(tools: Mapping[str, BoundTool]) -> Wording:
    """Names as the model of a server with these `tools` knows them, and which of them it has to ask its user for."""

    def verb(operation: Operation[Any, Any]) -> str:
        here = operation.tool or operation.name
        return here if here in tools else f"{command_line(operation)} (no tool of this server)"

    def option(operation: Operation[Any, Any], field: Field, value: str | None) -> str:
        tool = tools.get(operation.tool or "")
        if tool and tool.shows(field):
            return as_argument(field, value)
        started = "--allow-host-compat" if field.param.tool == "host_compat" else "--profile workspace-full"
        return f"{as_argument(field, value)} (only when the server is started with {started})"

    return Wording(verb, option, every_operation)


def answer(payload: Mapping[str, Any], shorten: Callable[[Mapping[str, Any]], dict[str, Any]] = dict) -> CallToolResult:
    """A result, structured and as text, both complete. What it leaves out, `shorten` leaves out."""
    from mcp.types import CallToolResult, TextContent

    whole = clip(_short_commands(encodable(payload)))
    shown = fit(shorten(whole), ANSWER_CHARS, whole)
    text = json.dumps(shown, ensure_ascii=False)
    return CallToolResult(content=[TextContent(text=text)], structured_content=shown)


def _short_commands(value: Any) -> Any:
    """`value` with every `command` short enough to be known again: whoever asks has sent it, and it may be a script."""
    if isinstance(value, Mapping):
        return {
            name: _middle_out(part) if name == "command" and isinstance(part, str) else _short_commands(part)
            for name, part in value.items()
        }
    return [_short_commands(part) for part in value] if isinstance(value, list) else value


def _middle_out(command: str) -> str:
    if len(command) <= COMMAND_CHARS:
        return command
    head, tail = command[: COMMAND_CHARS * 3 // 4], command[-COMMAND_CHARS // 4 :]
    return f"{head} [... {count_of(len(command) - len(head) - len(tail), 'character')} ...] {tail}"


def refusal(error: PyroError) -> CallToolResult:
    """An error as text only: some hosts check structured content against the schema of a success."""
    from mcp.types import CallToolResult, TextContent

    parts = [f"{error.message} [{error.code}]"]
    if error.hint:
        parts.append(f"Hint: {error.hint}")
    text = str(encodable("\n".join(parts)))
    return CallToolResult(content=[TextContent(text=text)], is_error=True)


def clip(payload: Mapping[str, Any], left: int = ANSWER_CHARS) -> dict[str, Any]:
    """`payload` with its streams last and cut to head and tail; what was cut is counted where the result counts.
    Of several entries with streams the latest are the most telling: each takes half of what is left."""
    shown = {name: value for name, value in payload.items() if name not in _STREAMS}
    if isinstance(entries := shown.get("entries"), list) and any("stdout" in entry for entry in entries):
        clipped = []
        for entry in reversed(entries):
            clipped.append(clip(entry, max(ENTRY_CHARS, left)))
            left -= max(left // 2, ENTRY_CHARS)
        shown["entries"] = clipped[::-1]
    for name in _STREAMS:
        if not isinstance(payload.get(name), str):
            continue
        text = payload[name]
        limit = min(STREAM_CHARS, left)
        if name == "stderr":
            limit = max(left // 5, min(limit, left - len(str(payload.get("stdout", "")))))
        kept, dropped = _cut(text, limit, partial(_rest, payload, name))
        left -= min(len(text), limit)
        if dropped:
            shown["truncated"] = True
            count = f"{name}_dropped_bytes"
            shown[count] = int(shown.get(count) or 0) + dropped
        shown[name] = kept
    if "stderr" in shown:
        shown["stderr"] = shown.pop("stderr")
    if "stdout" in shown:
        shown["stdout"] = shown.pop("stdout")
    return shown


def _cut(text: str, limit: int, rest: Callable[[str], str]) -> tuple[str, int]:
    """At most about `limit` characters of `text`, with a note that says how to get at what is left out behind the head,
    and the number of bytes left out."""
    if len(text) <= limit:
        return text, 0
    head, tail = text[: limit * 5 // 8], text[len(text) - limit * 3 // 8 :]
    dropped = len(text[len(head) : len(text) - len(tail)].encode("utf-8", "replace"))
    return f"{head}\n[... {count_of(dropped, 'byte')} left out here; {rest(head)} ...]\n{tail}", dropped


def _rest(payload: Mapping[str, Any], name: str, head: str) -> str:
    """How to read what of the stream `name` follows after `head`, its beginning."""
    if "service_name" in payload:
        return "ask for fewer lines"
    if "sequence" not in payload:
        return "this output is gone: let a command print less, or keep it in a file of a workspace"
    # Where the guest's bytes are not these characters, or some were left out before, the place of the cut is unknown.
    exact = not payload.get("encoding_lossy") and not payload.get(f"{name}_dropped_bytes")
    place = len(head.encode()) if exact else 0
    out, err = payload["next_cursor"].split(":")
    cursor = f"{place}:{err}" if name == "stdout" else f"{out}:{place}"
    how = "reads on" if place else "reads all of it"
    return f'workspace_logs with sequence {payload["sequence"]} and cursor "{cursor}" {how}'


def encodable(value: Any) -> Any:
    """`value` with lone surrogates, which no JSON host can read, replaced."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, Mapping):
        return {encodable(name): encodable(part) for name, part in value.items()}
    if isinstance(value, list):
        return [encodable(part) for part in value]
    return value
