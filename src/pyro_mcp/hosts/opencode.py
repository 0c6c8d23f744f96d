"""Opencode: `mcp.NAME` in `opencode.json` or `opencode.jsonc`. OpenCode has no command that removes an entry."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pyro_mcp.errors import PyroError
from pyro_mcp.hosts.configfile import ConfigFile
from pyro_mcp.hosts.contract import Entry, Found, Scope, Server, Tool
from pyro_mcp.hosts.filehost import FileHost, refused
from pyro_mcp.hosts.formats import same
from pyro_mcp.hosts.jsonfile import JsonFormat
from pyro_mcp.model.host import HostApprovals
from pyro_mcp.system.process import find_program, run_into

PROOF_SECONDS = 120.0
MAX_BYTES = 64 * 1024 * 1024
REQUEST_MS = 60_000
"""For one request without news of it; the default, 5 s, is less than a busy machine needs to start a server."""


class Opencode(FileHost):
    """OpenCode."""

    name = "opencode"
    title = "OpenCode"
    program = "opencode"
    scopes = ("user", "project")
    format = JsonFormat("mcp")
    defaults: ClassVar[Mapping[str, Any]] = {"enabled": True}

    def path(self, scope: Scope, name: str) -> Path:
        holding = self._holding(scope, name)
        there = [path for path in self._files(scope) if path.exists()]
        return next(iter((*holding, *there)), self._files(scope)[-1])

    def hidden(self, scope: Scope, name: str) -> list[Path]:
        first, *others = self._holding(scope, name) or [Path()]
        return [path for path in others if path.resolve() != first.resolve()]

    def _files(self, scope: Scope) -> tuple[Path, Path]:
        """Of the two, opencode.jsonc is read last and wins."""
        config = self.where.directory("XDG_CONFIG_HOME", ".config") / "opencode"
        directory = self.where.cwd if scope == "project" else config
        return directory / "opencode.jsonc", directory / "opencode.json"

    def _holding(self, scope: Scope, name: str) -> list[Path]:
        there = [path for path in self._files(scope) if path.exists()]
        return [path for path in there if name in self.read(ConfigFile.load(path), scope)]

    @staticmethod
    def entry(server: Server) -> Entry:
        words = [server.command, *server.args]
        return {"type": "local", "command": words, "enabled": True, "timeout": REQUEST_MS}

    def environ(self, entry: Entry) -> Mapping[str, Any]:
        found = entry.get("environment")
        return found if isinstance(found, dict) else {}

    def prove(self, found: Found, name: str, entry: Entry | None) -> None:
        if entry is None and find_program(self.program) is None:
            return
        argv = [self.require(), "debug", "config"]
        try:
            said = run_into(argv, limit=MAX_BYTES, timeout=PROOF_SECONDS, cwd=self.where.cwd, env=self.where.environ)
            seen = json.loads(said).get("mcp", {}).get(name)
        except PyroError as error:
            raise refused(self, error, found.file.path) from error
        except (ValueError, AttributeError) as error:
            raise refused(self, PyroError(f"its `debug config` is not understood: {error}"), found.file.path) from error
        if entry is not None and not (isinstance(seen, dict) and same(seen.get("command"), entry["command"])):
            cause = "another of its files has an entry of this name, which wins"
            raise refused(self, PyroError(cause), found.file.path)

    def patience(self, entry: Entry) -> float:
        milliseconds = entry.get("timeout", 5000)
        return milliseconds / 1000 if isinstance(milliseconds, int | float) else 5.0

    def approvals(self, tools: Sequence[Tool], name: str, entry: Entry) -> HostApprovals:
        return HostApprovals(
            unasked=[tool.name for tool in tools],
            asks=[],
            how=f'OpenCode runs every tool unless its "permission" says otherwise: "permission": {{"{name}_*": "ask"}}',
        )
