"""Codex: `[mcp_servers.NAME]` in `config.toml`, of the user or of a trusted project.

`codex mcp add` would lose comments and timeouts. Codex begins a model's first turn after about a second without the
servers that are not up, unless `required` is set.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pyro_mcp.errors import Conflict, NotFound, PyroError
from pyro_mcp.hosts.contract import Entry, Found, Scope, Server, Tool
from pyro_mcp.hosts.filehost import FileHost, refused, said_by
from pyro_mcp.hosts.tomlfile import TomlFormat
from pyro_mcp.model.host import HostApprovals
from pyro_mcp.system.process import find_program, run

PROOF_SECONDS = 60.0
GRACE_SECONDS = 1.0
START_SECONDS = 30
CALL_SECONDS = 3600
"""A first installation of an environment takes minutes; commands have a limit of their own, 30 s unless given."""

APPROVE = "approve"


class Codex(FileHost):
    """OpenAI's Codex CLI."""

    name = "codex"
    title = "Codex"
    program = "codex"
    scopes = ("user", "project")
    format = TomlFormat("mcp_servers")
    defaults: ClassVar[Mapping[str, Any]] = {"enabled": True, "args": []}

    def path(self, scope: Scope, name: str) -> Path:
        if scope == "project":
            return self.where.cwd / ".codex" / "config.toml"
        directory = self.where.directory("CODEX_HOME", ".codex")
        if self.where.environ.get("CODEX_HOME") and not directory.is_dir():
            raise NotFound(
                f"cannot use CODEX_HOME: there is no directory {directory}",
                hint="Codex does not start without it. Make it, or unset the variable.",
            )
        return directory / "config.toml"

    @staticmethod
    def entry(server: Server) -> Entry:
        return {
            "command": server.command,
            "args": list(server.args),
            "enabled": True,
            "required": True,
            "startup_timeout_sec": START_SECONDS,
            "tool_timeout_sec": CALL_SECONDS,
        }

    def prove(self, found: Found, name: str, entry: Entry | None) -> None:
        if entry is None and find_program(self.program) is None:
            return
        argv = [self.require(), "mcp", "get" if entry else "list", *([name] if entry else []), "--json"]
        try:
            said = run(argv, cwd=self.where.cwd, env=self.where.environ, timeout=PROOF_SECONDS).stdout
        except PyroError as error:
            if found.scope == "project" and f"No MCP server named '{name}'" in said_by(error):
                hint = "Start codex here once and trust this directory, or use --scope user."
                cause = f"cannot change {found.file.path}: Codex reads it only in a project that it trusts"
                raise Conflict(cause, hint=hint) from None
            raise refused(self, error, found.file.path) from error
        if entry is not None:
            seen = json.loads(said)["transport"]
            if (seen.get("command"), seen.get("args")) != (entry["command"], entry["args"]):
                raise refused(self, PyroError(f"it starts another program: {seen.get('command')}"), found.file.path)

    def patience(self, entry: Entry) -> float:
        if entry.get("required") is True:
            seconds = entry.get("startup_timeout_sec", START_SECONDS)
            return float(seconds) if isinstance(seconds, int | float) else GRACE_SECONDS
        return GRACE_SECONDS

    def approvals(self, tools: Sequence[Tool], name: str, entry: Entry) -> HostApprovals:
        overridden = entry.get("tools")
        modes = overridden if isinstance(overridden, dict) else {}

        def unasked(tool: Tool) -> bool:
            own = modes.get(tool.name)
            mode = own.get("approval_mode") if isinstance(own, dict) else None
            mode = mode or entry.get("default_tools_approval_mode", "auto")
            harmless = tool.read_only or not (tool.destructive or tool.open_world)
            return mode == APPROVE or (mode == "auto" and harmless)

        return HostApprovals(
            unasked=[tool.name for tool in tools if unasked(tool)],
            asks=[tool.name for tool in tools if not unasked(tool)],
            how=f"`codex exec` refuses what it would ask about. In {self.path('user', name)}, "
            f'below [mcp_servers.{name}]: default_tools_approval_mode = "approve" allows every tool; '
            f'[mcp_servers.{name}.tools.TOOL] with approval_mode = "approve" allows one',
        )
