"""Printed: where each host keeps its servers and how an entry of it looks, for `print-config`.

The last four are only printed, or put into a file that a person names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pyro_mcp.hosts.claude_code import ClaudeCode
from pyro_mcp.hosts.codex import Codex
from pyro_mcp.hosts.contract import Entry, Server
from pyro_mcp.hosts.formats import Format
from pyro_mcp.hosts.jsonfile import JsonFormat
from pyro_mcp.hosts.opencode import Opencode


@dataclass(frozen=True)
class Printed:
    """A host's form: `place` is the file a person puts it into."""

    title: str
    format: Format
    entry: Callable[[Server], Entry]
    place: str


def _plain(server: Server) -> Entry:
    return {"command": server.command, "args": list(server.args)}


def _typed(server: Server) -> Entry:
    return {"type": "stdio", **_plain(server)}


def _gemini(server: Server) -> Entry:
    return {**_plain(server), "timeout": 3_600_000}


PRINTED = {
    "claude-code": Printed("Claude Code", ClaudeCode.format, ClaudeCode.entry, ".mcp.json of a project"),
    "codex": Printed("Codex", Codex.format, Codex.entry, "~/.codex/config.toml"),
    "opencode": Printed("OpenCode", Opencode.format, Opencode.entry, "~/.config/opencode/opencode.json"),
    "cursor": Printed("Cursor", JsonFormat("mcpServers"), _plain, "~/.cursor/mcp.json, or .cursor/mcp.json"),
    "vscode": Printed("VS Code", JsonFormat("servers"), _typed, ".vscode/mcp.json"),
    "claude-desktop": Printed(
        "Claude Desktop",
        JsonFormat("mcpServers", comments=False),
        _plain,
        "~/.config/Claude/claude_desktop_config.json",
    ),
    "gemini": Printed("Gemini CLI", JsonFormat("mcpServers"), _gemini, "~/.gemini/settings.json"),
}
