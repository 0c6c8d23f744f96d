"""Resources: workspaces as things that a person can put before the model. Lists and summaries are a tool's answer; a
file is its own text and a diff a patch, whole up to `WHOLE`, and what is missing is said at the end. Listing resources
asks nobody, for hosts list often: neither a node nor a guest is started."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from pyro_mcp.errors import InvalidArgument
from pyro_mcp.model.count import count_of

WHOLE = 256 * 1024
"""Bytes of a file, or characters of a patch, that are shown at once: a person chose to see it whole."""
WORKSPACES = "pyro://workspaces"
JSON = "application/json"


@dataclass(frozen=True)
class Whole:
    """A resource that is a text of its own: `shown` makes it of what `verb` answers when it is asked for so much."""

    verb: str
    shown: Callable[[Mapping[str, Any]], str]
    asked: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ResourceKind:
    """Resources of one kind: those that `pattern` matches are what `tool` answers, or a `whole` text, of which that
    tool shows what is too much."""

    name: str
    title: str
    description: str
    uri: str
    pattern: re.Pattern[str]
    tool: str
    mime_type: str = JSON
    whole: Whole | None = None

    def listed(self) -> dict[str, Any]:
        """The resource or its template, in the order in which the MCP library writes it."""
        key = "uriTemplate" if "{" in self.uri else "uri"
        shown = {"description": self.description, "mimeType": self.mime_type, "name": self.name, "title": self.title}
        return {**shown, key: self.uri}


def _kind(
    name: str, title: str, description: str, end: str, tool: str, mime_type: str = JSON, whole: Whole | None = None
) -> ResourceKind:
    uri = f"{WORKSPACES}/{{workspace_id}}/{end}"
    pattern = re.escape(WORKSPACES) + r"/(?P<workspace_id>[^/?#]+)/" + end.replace("{+path}", "(?P<path>[^?#]+)")
    return ResourceKind(name, title, description, uri, re.compile(pattern), tool, mime_type, whole)


def file_text(answer: Mapping[str, Any]) -> str:
    """The file as it stands. Raises `InvalidArgument` for a binary one."""
    path, text = answer["path"], answer["content"]
    if answer["binary"]:
        raise InvalidArgument(
            f"cannot read {path} as text: it is binary", hint="<<export_workspace>> copies it to the host."
        )
    if not answer["truncated"]:
        return str(text)
    left, line = answer["size_bytes"] - answer["next_offset"], text.count("\n") + 1
    return _marked(text, f"{count_of(left, 'byte')} left out; workspace_file_read with offset {line} reads on")


def patch_text(answer: Mapping[str, Any]) -> str:
    """The patch, and how many changes are not in it."""
    text, entries = answer["patch"], answer["entries"]
    silent = sum(entry["text_patch"] is None for entry in entries)
    cut = sum(entry["patch_chars_left"] > 0 for entry in entries)
    if silent:
        changes = count_of(silent, "change")
        text = _marked(text, f"{changes} that a patch cannot say, such as of binary files; workspace_diff lists them")
    if answer["truncated"]:
        left = answer["summary"]["total"] - len(entries) + cut
        where = f" with cursor {json.dumps(answer['next_cursor'])}" if answer["next_cursor"] else " with paths"
        # The agent counts no further than its limit.
        more = f"{count_of(left, 'change')} left out or cut" if left else "more changes than can be counted"
        text = _marked(text, f"{more}; workspace_diff{where} shows them")
    return str(text)


def _marked(text: str, note: str) -> str:
    return f"{text}{'' if text.endswith(chr(10)) or not text else chr(10)}[... {note} ...]\n"


KINDS = (
    ResourceKind(
        "workspaces",
        "Workspaces",
        "All workspaces, the most recently active first",
        WORKSPACES,
        re.compile(re.escape(WORKSPACES)),
        "workspace_list",
    ),
    _kind(
        "workspace-summary",
        "Summary of a workspace",
        "What ran and what changed since the last reset",
        "summary",
        "workspace_summary",
    ),
    _kind(
        "workspace-diff",
        "Changes in a workspace",
        "The workspace against what it started with, as a patch",
        "diff",
        "workspace_diff",
        "text/x-diff",
        Whole("diff_workspace", patch_text, {"max_chars": WHOLE}),
    ),
    _kind(
        "workspace-file",
        "File of a workspace",
        "A text file of up to 256 KiB, by its path below /workspace",
        "files/{+path}",
        "workspace_file_read",
        "text/plain",
        Whole("read_workspace_file", file_text, {"max_bytes": WHOLE}),
    ),
)


def kinds(tools: Container[str]) -> tuple[ResourceKind, ...]:
    """The kinds that a server with these `tools` can read."""
    return tuple(kind for kind in KINDS if kind.tool in tools)


def find(uri: str, known: tuple[ResourceKind, ...]) -> tuple[ResourceKind, dict[str, str]]:
    """The kind of `uri`, and what its tool is asked. Raises `InvalidArgument`."""
    for kind in known:
        if match := kind.pattern.fullmatch(uri):
            try:
                return kind, {name: unquote(value, errors="strict") for name, value in match.groupdict().items()}
            except UnicodeDecodeError:
                break
    raise InvalidArgument(
        f"cannot read {uri[:200]!r}: there is no such resource",
        hint=f"Resources are: {', '.join(kind.uri for kind in known) or 'none'}.",
    )
