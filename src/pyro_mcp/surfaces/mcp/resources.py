"""Resources: workspaces as things that a person can put before the model. Each is read by a tool's operation and
within a tool's bounds. Listing them asks nobody, for hosts list often: neither a node nor a guest is started."""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from pyro_mcp.errors import InvalidArgument

WORKSPACES = "pyro://workspaces"
JSON = "application/json"


@dataclass(frozen=True)
class ResourceKind:
    """Resources of one kind: those that `pattern` matches are what `tool` answers; of the answer, `part` is shown, or
    all of it."""

    name: str
    title: str
    description: str
    uri: str
    pattern: re.Pattern[str]
    tool: str
    mime_type: str = JSON
    part: str | None = None

    def listed(self) -> dict[str, Any]:
        """The resource or its template, in the order in which the MCP library writes it."""
        key = "uriTemplate" if "{" in self.uri else "uri"
        shown = {"description": self.description, "mimeType": self.mime_type, "name": self.name, "title": self.title}
        return {**shown, key: self.uri}


def _kind(name: str, title: str, description: str, end: str, tool: str, *shown: str) -> ResourceKind:
    uri = f"{WORKSPACES}/{{workspace_id}}/{end}"
    pattern = re.escape(WORKSPACES) + r"/(?P<workspace_id>[^/?#]+)/" + end.replace("{+path}", "(?P<path>[^?#]+)")
    return ResourceKind(name, title, description, uri, re.compile(pattern), tool, *shown)


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
        "The workspace against what it started with",
        "diff",
        "workspace_diff",
        "text/x-diff",
        "patch",
    ),
    _kind(
        "workspace-file",
        "File of a workspace",
        "A text file, by its path below /workspace",
        "files/{+path}",
        "workspace_file_read",
        "text/plain",
        "content",
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
